"""The batch size that memory holds (``--batch-size auto``)."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from hrkd_cli.errors import TrainingError
from hrkd_cli.events import Note
from hrkd_cli.settings import AUTO_BATCH, TrainingSettings
from hrkd_cli.training.checkpoint import Checkpointer
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.loop import Objective
from hrkd_cli.training.rows import check_share

LARGEST = 32  # rows of a domain: the paper's batch over its 4 GPUs
SHARE = 0.9  # of a GPU's memory that the first steps may take: later ones fragment it


def batch_size_of(
    settings: TrainingSettings,
    objective: Objective,
    modules: Sequence[nn.Module],
    lengths: Mapping[str, np.ndarray],
    *,
    checkpoint: Checkpointer,
    context: TrainContext,
    factor: int = 1,
    extra: Mapping[str, float] | None = None,
) -> int:
    """Return the batch size of the settings; for ``auto`` the largest power of two up to 32 that memory holds.

    Args:
        settings: with the batch size.
        objective: what is minimized.
        modules: the modules that the optimizer will step.
        lengths: tokens of each train row by domain.
        checkpoint: remembers what was found, whatever memory a resumed run has.
        context: see TrainContext.
        factor: rows of each domain in a step, as a multiple of the batch size.
        extra: rows that a step has on top of each one of these, by domain.

    Raises:
        TrainingError: not even one row of each domain fits.
        UsageError: a step has fewer rows than there are processes.
    """
    size = settings.batch_size
    if size == AUTO_BATCH:
        longest = {domain: np.argsort(-own, kind="stable").tolist() for domain, own in lengths.items()}

        def rows_of(size: int) -> dict[str, list[int]]:
            counts = {d: factor * size + math.ceil(size * (extra or {}).get(d, 0.0)) for d in longest}
            return {d: (order * counts[d])[: counts[d]] for d, order in longest.items()}

        size = checkpoint.decide("batch_size", lambda: _find(objective, modules, rows_of, context))
    check_share(int(size) * factor, len(lengths), context.processes)
    return int(size)


def _find(
    objective: Objective,
    modules: Sequence[nn.Module],
    rows_of: Callable[[int], dict[str, list[int]]],
    context: TrainContext,
) -> int:
    """Run forward and backward passes of the longest rows, at half the size whenever memory runs out."""
    from accelerate.utils import find_executable_batch_size  # takes a second to import

    state = copy.deepcopy(objective.state_dict())
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]

    def attempt(size: int) -> int:
        for parameter in parameters:
            parameter.grad = None
        rows = rows_of(size)
        if sum(map(len, rows.values())) < context.processes.size:
            return 0
        moments = [torch.zeros_like(p) for p in parameters for _ in range(2)]  # AdamW's, from the first step on
        # Each process on its own: none may wait for one that ran out of memory.
        with context.processes.no_sync(), context.precision.forward():
            loss = objective.loss(objective.collate(rows)).total
        loss.backward()  # type: ignore[no-untyped-call]
        del moments
        return size

    found = 0
    with _reserve(context.device):
        smaller = iter([LARGEST >> n for n in range(1, LARGEST.bit_length())] + [0])
        try:
            found = find_executable_batch_size(attempt, LARGEST, reduce_batch_size_fn=lambda: next(smaller))()
        except RuntimeError as error:
            if "No executable batch size found" not in str(error):
                raise
    for parameter in parameters:
        parameter.grad = None
    objective.load_state_dict(state)
    found = min(int(t) for t in context.processes.all_gather(torch.tensor([found])))
    if not found:
        raise TrainingError(
            "--batch-size auto: memory holds not even one row of each domain; lower --max-length or take a smaller "
            "model"
        )
    context.on_event(Note(f"--batch-size auto: {found} rows of each domain"))
    return found


@contextlib.contextmanager
def _reserve(device: torch.device) -> Iterator[None]:
    """Let the allocator of a GPU fail above ``SHARE`` of its memory."""
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(SHARE, device)
    try:
        yield
    finally:
        if device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(1.0, device)
            torch.cuda.empty_cache()
