"""The batch size that memory holds (``--batch-size auto``)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hrkd_cli.errors import TrainingError
from hrkd_cli.events import Note, OnEvent
from hrkd_cli.models.encoding import Encoded
from hrkd_cli.models.precision import Arithmetic
from hrkd_cli.settings import AUTO_BATCH, TrainingSettings
from hrkd_cli.training.loop import Objective
from hrkd_cli.training.process_group import ProcessGroup

LARGEST = 32  # rows of a domain: the paper's batch over its 4 GPUs
SHARE = 0.9  # of the free memory that a step may take: the allocator and other programs need some


def batch_size_of(
    settings: TrainingSettings,
    objective: Objective,
    trained: list[nn.Module],
    encoded: Mapping[str, Encoded],
    *,
    arithmetic: Arithmetic,
    processes: ProcessGroup,
    on_event: OnEvent,
    decided: int | None,
    extra: Mapping[str, float] | None = None,
) -> int:
    """Return the batch size that was given, or for ``auto`` the largest power of two up to 32 that memory holds.

    Steps with the longest rows, and what comes before a step (training of a learned graph), are run at growing sizes,
    until the next one would not fit.

    Args:
        settings: with the batch size.
        objective: what is trained.
        trained: the modules that the optimizer will step.
        encoded: what is learnt from, by domain.
        arithmetic: precision and device.
        processes: the processes of the run.
        on_event: told what was found.
        decided: what ``auto`` found before the run was cut off: its steps are of that size, whatever is free now.
        extra: rows that a step has on top of each one of these, by domain.

    Raises:
        TrainingError: not even one row of each domain fits.
    """
    if settings.batch_size != AUTO_BATCH:
        return int(settings.batch_size)
    if decided is not None:
        return decided
    longest = {domain: np.argsort(-e.lengths(), kind="stable").tolist() for domain, e in encoded.items()}
    state = objective.state_dict()
    before = {name: t.clone() for name, t in state.items()}

    def rows_of(size: int) -> dict[str, list[int]]:
        counts = {domain: size + math.ceil(size * (extra or {}).get(domain, 0)) for domain in longest}
        return {domain: (order * counts[domain])[: counts[domain]] for domain, order in longest.items()}

    found = _largest_step(objective, trained, rows_of, len(longest), arithmetic, processes)
    objective.load_state_dict(before)
    if not found:
        raise TrainingError(
            "--batch-size auto: memory holds not even one row of each domain; lower --max-length or take a smaller "
            "model"
        )
    on_event(Note(f"--batch-size auto: {found} rows of each domain"))
    return found


def _largest_step(
    objective: Objective,
    trained: list[nn.Module],
    rows_of: Callable[[int], dict[str, list[int]]],
    domains: int,
    arithmetic: Arithmetic,
    processes: ProcessGroup,
) -> int:
    """Return the largest power of two of rows a domain with which a step fits; 0 when none does."""
    more = 2 * sum(p.numel() * p.element_size() for m in trained for p in m.parameters() if p.requires_grad)  # moments
    more += more // 2 * (processes.size > 1)  # gradients on their way
    found, size = 0, 1
    used: list[int] = []
    while size <= LARGEST:
        if size * domains < processes.size:
            size *= 2
            continue
        with processes.no_sync():
            peaks = _peaks(objective, trained, rows_of(size), arithmetic)
        if processes.any(peaks is None):
            break
        assert peaks is not None
        found = size
        on_cpu = arithmetic.device.type == "cpu"
        nexts = [_next(peak, before, on_cpu=on_cpu) for peak, before in zip(peaks, used or [0, 0], strict=True)]
        if processes.any(max(nexts) + more > SHARE * _there(arithmetic.device)):
            break
        size, used = size * 2, peaks
    return found


def _next(peak: int, before: int, *, on_cpu: bool) -> int:
    """Guess what twice the rows take: at most as much again as these took over none.

    A CPU tells only the most that a process ever had; where that has not grown, the growth is not known.
    """
    known = before > 0 and (peak > before or not on_cpu)
    return peak + (max(0, peak - before) if known else peak // 2)


def _peaks(
    objective: Objective, trained: list[nn.Module], rows: dict[str, list[int]], arithmetic: Arithmetic
) -> list[int] | None:
    """Run what comes before a step, and a step, without updating anything; return the most bytes in use in each.

    None when there was too little memory.
    """
    cuda = arithmetic.device.type == "cuda"
    for module in trained:
        module.train()
    found = []
    try:
        batch = objective.collate(rows)
        for run in (partial(objective.rehearse, batch), partial(_step, objective, batch, arithmetic)):
            if cuda:
                torch.cuda.reset_peak_memory_stats(arithmetic.device)
            run()
            found.append(torch.cuda.max_memory_allocated(arithmetic.device) if cuda else _resident())
        return found
    except (torch.OutOfMemoryError, MemoryError):
        return None
    except RuntimeError as error:
        if "allocate memory" in str(error):  # torch's CPU allocator has no type of its own for it
            return None
        raise
    finally:
        for module in trained:
            module.zero_grad(set_to_none=True)
        if cuda:
            torch.cuda.empty_cache()


def _step(objective: Objective, batch: Any, arithmetic: Arithmetic) -> None:
    with arithmetic.forward():
        loss = objective.loss(batch).total
    loss.backward()  # type: ignore[no-untyped-call]


def _resident() -> int:
    """Most bytes that this process has had in memory."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _there(device: torch.device) -> int:
    """Bytes that this process could have in memory."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device)
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 1 << 62  # nobody knows here: the allocator will say
    return available + _resident()
