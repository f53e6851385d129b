"""The batch size that memory holds (``--batch-size auto``)."""

from __future__ import annotations

import math

import numpy as np
import torch

from hrkd_cli.data.batching import bare_per_row
from hrkd_cli.errors import TrainingError, UsageError
from hrkd_cli.events import Note
from hrkd_cli.settings import AUTO_BATCH, TrainingSettings
from hrkd_cli.training.checkpoint import Checkpointer
from hrkd_cli.training.loop import Objective
from hrkd_cli.training.rows import Rows

LARGEST = 32  # rows of a domain: the paper's batch over its 4 GPUs
SHARE = 0.9  # of a GPU's memory that the first steps may take: later ones fragment it


def batch_size_of(
    settings: TrainingSettings,
    objective: Objective,
    checkpoint: Checkpointer,
    *,
    factor: int = 1,
    unlabelled_share: float = 0.0,
) -> int:
    """Return the batch size of the settings; for ``auto`` the largest power of two up to 32 that memory holds.

    Args:
        settings: with the batch size.
        objective: what is minimized.
        checkpoint: remembers what was found, whatever memory a resumed run has.
        factor: rows of each domain in a step, as a multiple of the batch size.
        unlabelled_share: see Trainer.

    Raises:
        TrainingError: not even one row of each domain fits.
        UsageError: a step has fewer rows than there are processes.
    """
    rows, context = objective.collate.rows, objective.collate.context

    def find() -> int:
        longest = {domain: np.argsort(-own, kind="stable") for domain, own in rows.lengths.items()}
        per_row = dict.fromkeys(rows.unlabelled, bare_per_row(unlabelled_share))
        found = LARGEST
        while found:
            counts = {d: factor * found + math.ceil(found * per_row.get(d, 0.0)) for d in longest}
            step = {d: np.resize(order, counts[d]).tolist() for d, order in longest.items()}
            if _fits(step, objective):
                break
            found //= 2
        found = min(context.processes.all_gather(found))
        if not found:
            raise TrainingError(
                "--batch-size auto: memory holds not even one row of each domain; lower --max-length or take a smaller "
                "model"
            )
        context.on_event(Note(f"--batch-size auto: {found} rows of each domain"))
        return found

    size = int(checkpoint.decide("batch_size", find) if settings.batch_size == AUTO_BATCH else settings.batch_size)
    count, processes = size * factor * len(rows.lengths), context.processes.size
    if count < processes:
        raise UsageError(
            f"--processes {processes}: a step has {count} rows, fewer than processes; raise --batch-size or use fewer"
        )
    return size


def _fits(rows: Rows, objective: Objective) -> bool:
    """Tell whether memory holds a forward and a backward pass of these rows, beside the optimizer's state."""
    from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size  # takes a second to import

    context = objective.collate.context
    if sum(map(len, rows.values())) < context.processes.size:
        return False
    clear_device_cache(garbage_collection=True)
    on_gpu = context.device.type == "cuda"
    if on_gpu:
        torch.cuda.set_per_process_memory_fraction(SHARE, context.device)
    parameters = [p for module in objective.modules for p in module.parameters() if p.requires_grad]
    try:
        moments = [torch.zeros_like(p) for p in parameters for _ in range(2)]  # AdamW's, from the first step on
        # Each process on its own: none may wait for one that ran out of memory.
        with context.processes.no_sync():
            objective.dry_run(rows)
        del moments
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
        return False
    finally:
        if on_gpu:
            torch.cuda.set_per_process_memory_fraction(1.0, context.device)
            clear_device_cache()
    return True
