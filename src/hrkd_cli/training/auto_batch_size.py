"""Batch size of a run; ``--batch-size auto`` finds the largest that fits in memory."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from hrkd_cli.data.sampler import unlabeled_per_labeled
from hrkd_cli.errors import TrainingError, UsageError
from hrkd_cli.events import Note, Progress
from hrkd_cli.settings import AUTO_BATCH, TrainingSettings
from hrkd_cli.training.checkpoint import Checkpointer
from hrkd_cli.training.collator import StepRows
from hrkd_cli.training.loop import Objective

MAX_BATCH_SIZE = 32  # rows per domain: the paper's batch over its 4 GPUs
MEMORY_FRACTION = 0.9  # of a GPU's memory; the rest is for fragmentation in later steps


def resolve_batch_size(
    settings: TrainingSettings,
    objective: Objective,
    checkpointer: Checkpointer,
    *,
    unlabeled_fraction: float = 0.0,
) -> int:
    """Return the batch size of the settings; for ``auto`` the largest power of two up to 32 that fits in memory.

    ``checkpointer`` stores the automatic batch size, so that a resumed run uses the same one.

    Raises:
        TrainingError: not even one row per domain fits.
        UsageError: a step has fewer rows than there are processes.
    """
    size, decisions = settings.batch_size, checkpointer.decisions
    if size == AUTO_BATCH:
        if "batch_size" not in decisions:
            decisions["batch_size"] = _find_batch_size(objective, unlabeled_per_labeled(unlabeled_fraction))
        size = decisions["batch_size"]
    size = int(size)
    count, processes = size * len(objective.collator.split.lengths), objective.collator.context.processes.size
    if count < processes:
        raise UsageError(
            f"--processes {processes}: a step has {count} rows, fewer than processes; raise --batch-size or use fewer"
        )
    return size


def _find_batch_size(objective: Objective, unlabeled_per_row: float) -> int:
    """Return the largest power of two up to 32 that fits in the memory of every process, with the longest rows."""
    split, context = objective.collator.split, objective.collator.context
    context.on_event(Progress("finding the largest batch that fits in memory"))
    longest_first = {domain: np.argsort(-lengths, kind="stable") for domain, lengths in split.lengths.items()}

    def longest_rows(size: int) -> StepRows:
        with_unlabeled = size + math.ceil(size * unlabeled_per_row)
        counts = {domain: with_unlabeled if domain in split.unlabeled else size for domain in longest_first}
        return {domain: np.resize(rows, counts[domain]).tolist() for domain, rows in longest_first.items()}

    size = min(context.processes.all_gather(_largest_that_fits(objective, longest_rows)))
    if not size:
        raise TrainingError(
            "--batch-size auto: not even one row of each domain fits in memory; lower --max-length or use a smaller "
            "model"
        )
    context.on_event(Note(f"--batch-size auto: {size} rows of each domain"))
    return size


def _largest_that_fits(objective: Objective, rows_of_size: Callable[[int], StepRows]) -> int:
    """Return the largest power of two up to 32 for which a step and the optimizer's state fit in memory, or 0."""
    from accelerate.utils.memory import clear_device_cache, find_executable_batch_size  # takes a second to import

    context, size = objective.collator.context, MAX_BATCH_SIZE

    def halve() -> int:
        nonlocal size
        size //= 2
        return size

    def attempt(size: int) -> int:
        parameters = [p for module in objective.modules for p in module.parameters() if p.requires_grad]
        moments = [torch.zeros_like(p) for p in parameters for _ in range(2)]  # as AdamW has after the first step
        rows = rows_of_size(size)
        if sum(map(len, rows.values())) >= context.processes.size:
            # Without collective operations, in which a process would wait for one that ran out of memory.
            with context.processes.no_sync():
                objective.dry_run(rows)
        del moments
        return size

    on_gpu = context.device.type == "cuda"
    if on_gpu:
        torch.cuda.set_per_process_memory_fraction(MEMORY_FRACTION, context.device)
    try:
        find_executable_batch_size(attempt, MAX_BATCH_SIZE, halve)()
    except RuntimeError:
        if size:  # another error than running out of memory at size 1
            raise
    finally:
        if on_gpu:
            torch.cuda.set_per_process_memory_fraction(1.0, context.device)
        clear_device_cache()
    return size
