"""The batch size that memory holds (``--batch-size auto``)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from hrkd_cli.errors import TrainingError, UsageError
from hrkd_cli.events import Note
from hrkd_cli.settings import AUTO_BATCH, TrainingSettings
from hrkd_cli.training.checkpoint import Checkpointer
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.loop import Objective, Rows, dry_run

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
        modules: those that are trained.
        lengths: tokens of each train row by domain.
        checkpoint: remembers what was found, whatever memory a resumed run has.
        context: see TrainContext.
        factor: rows of each domain in a step, as a multiple of the batch size.
        extra: rows on top of each one of these, by domain.

    Raises:
        TrainingError: not even one row of each domain fits.
        UsageError: a step has fewer rows than there are processes.
    """
    size = settings.batch_size
    if size == AUTO_BATCH:
        longest = {domain: np.argsort(-own, kind="stable").tolist() for domain, own in lengths.items()}

        def find() -> int:
            found = LARGEST
            while found:
                counts = {d: factor * found + math.ceil(found * (extra or {}).get(d, 0.0)) for d in longest}
                rows = {d: (order * counts[d])[: counts[d]] for d, order in longest.items()}
                if _fits(rows, objective, modules, context):
                    break
                found //= 2
            found = min(int(t) for t in context.processes.all_gather(torch.tensor([found])))
            if not found:
                raise TrainingError(
                    "--batch-size auto: memory holds not even one row of each domain; lower --max-length or take a "
                    "smaller model"
                )
            context.on_event(Note(f"--batch-size auto: {found} rows of each domain"))
            return found

        size = checkpoint.decide("batch_size", find)
    rows, processes = int(size) * factor * len(lengths), context.processes.size
    if rows < processes:
        raise UsageError(
            f"--processes {processes}: a step has {rows} rows, fewer than processes; raise --batch-size or use fewer"
        )
    return int(size)


def _fits(rows: Rows, objective: Objective, modules: Sequence[nn.Module], context: TrainContext) -> bool:
    """Tell whether memory holds a forward and a backward pass of these rows, beside the optimizer's state."""
    from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size  # takes a second to import

    if sum(map(len, rows.values())) < context.processes.size:
        return False
    clear_device_cache(garbage_collection=True)
    on_gpu = context.device.type == "cuda"
    if on_gpu:
        torch.cuda.set_per_process_memory_fraction(SHARE, context.device)
    try:
        with dry_run(objective, modules):
            parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
            moments = [torch.zeros_like(p) for p in parameters for _ in range(2)]  # AdamW's, from the first step on
            # Each process on its own: none may wait for one that ran out of memory.
            with context.processes.no_sync(), context.precision.forward():
                loss = objective.loss(objective.collate(rows)).total
            loss.backward()  # type: ignore[no-untyped-call]
            del moments
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
        return False
    finally:
        if on_gpu:
            torch.cuda.set_per_process_memory_fraction(1.0, context.device)
            torch.cuda.empty_cache()
    return True
