"""The batch size that memory holds (``--batch-size auto``)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from hrkd_cli.data.sampler import unlabeled_per_labeled
from hrkd_cli.errors import TrainingError, UsageError
from hrkd_cli.events import Note
from hrkd_cli.settings import AUTO_BATCH, TrainingSettings
from hrkd_cli.training.checkpoint import Checkpointer
from hrkd_cli.training.collator import StepRows
from hrkd_cli.training.loop import Objective

LARGEST = 32  # rows of a domain: the paper's batch over its 4 GPUs
SHARE = 0.9  # of a GPU's memory that the first steps may take: later ones fragment it


def batch_size_of(
    settings: TrainingSettings,
    objective: Objective,
    checkpoint: Checkpointer,
    *,
    unlabeled_fraction: float = 0.0,
) -> int:
    """Return the batch size of the settings; for ``auto`` the largest power of two up to 32 that memory holds.

    Args:
        settings: with the batch size.
        objective: what is minimized.
        checkpoint: remembers what was found, whatever memory a resumed run has.
        unlabeled_fraction: see Trainer.

    Raises:
        TrainingError: not even one row of each domain fits.
        UsageError: a step has fewer rows than there are processes.
    """
    rows, context = objective.collator.split, objective.collator.context

    def find() -> int:
        longest = {domain: np.argsort(-own, kind="stable") for domain, own in rows.lengths.items()}
        per_row = dict.fromkeys(rows.unlabeled, unlabeled_per_labeled(unlabeled_fraction))

        def step(size: int) -> StepRows:
            counts = {d: size + math.ceil(size * per_row.get(d, 0.0)) for d in longest}
            return {d: np.resize(order, counts[d]).tolist() for d, order in longest.items()}

        found = min(context.processes.all_gather(_largest_that_fits(objective, step)))
        if not found:
            raise TrainingError(
                "--batch-size auto: memory holds not even one row of each domain; lower --max-length or take a smaller "
                "model"
            )
        context.on_event(Note(f"--batch-size auto: {found} rows of each domain"))
        return found

    decisions = checkpoint.decisions
    if settings.batch_size == AUTO_BATCH and "batch_size" not in decisions:
        decisions["batch_size"] = find()
    size = int(decisions["batch_size"] if settings.batch_size == AUTO_BATCH else settings.batch_size)
    count, processes = size * len(rows.lengths), context.processes.size
    if count < processes:
        raise UsageError(
            f"--processes {processes}: a step has {count} rows, fewer than processes; raise --batch-size or use fewer"
        )
    return size


def _largest_that_fits(objective: Objective, step: Callable[[int], StepRows]) -> int:
    """Return the largest power of two up to 32 for which memory holds a step beside the optimizer's state; or 0."""
    from accelerate.utils.memory import clear_device_cache, find_executable_batch_size  # takes a second to import

    context, size = objective.collator.context, LARGEST

    def halve() -> int:
        nonlocal size
        size //= 2
        return size

    def attempt(size: int) -> int:
        parameters = [p for module in objective.modules for p in module.parameters() if p.requires_grad]
        moments = [torch.zeros_like(p) for p in parameters for _ in range(2)]  # AdamW's, from the first step on
        if sum(map(len, step(size).values())) >= context.processes.size:
            # Each process on its own: none may wait for one that ran out of memory.
            with context.processes.no_sync():
                objective.dry_run(step(size))
        del moments
        return size

    on_gpu = context.device.type == "cuda"
    if on_gpu:
        torch.cuda.set_per_process_memory_fraction(SHARE, context.device)
    try:
        find_executable_batch_size(attempt, LARGEST, halve)()
    except RuntimeError:
        if size:  # not for want of memory
            raise
    finally:
        if on_gpu:
            torch.cuda.set_per_process_memory_fraction(1.0, context.device)
        clear_device_cache()
    return size
