"""Checkpoints: everything that a run needs to resume as if it had never stopped.

A checkpoint is a folder ``checkpoint-STEP`` in the run's working folder, which appears by a rename and is therefore
whole: ``state.safetensors`` (tensors) and ``checkpoint.json`` (plain values, and a checksum). The last two are kept.
What is saved registers itself: anything with ``state_dict()`` and ``load_state_dict()``, as in torch, whose state is a
flat dict of tensors and plain values.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hrkd_cli.errors import TrainingError
from hrkd_cli.layout import CHECKPOINT
from hrkd_cli.training.process_group import ProcessGroup

if TYPE_CHECKING:
    from torch.distributed.checkpoint.stateful import Stateful

KEPT = 2
FORMAT = 2
_NAME = re.compile(r"checkpoint-(\d+)")


class Checkpointer:
    """Saves and restores all that is registered.

    Args:
        work: the run's working folder.
        processes: the processes of the run; the main one writes.
        header: plain values that describe the run.
        resume: start from the newest checkpoint, if there is one.

    Attributes:
        resumed: values of the checkpoint that the run resumes from; None for a new run.

    Raises:
        TrainingError: there are checkpoints, and all are damaged.
    """

    def __init__(self, work: Path, processes: ProcessGroup, header: Mapping[str, Any], *, resume: bool) -> None:
        self.work = work
        self.processes = processes
        self.header = dict(header)
        self.resumed: dict[str, Any] | None = None
        self._tensors: dict[str, Tensor] = {}
        if resume and (found := latest(work)):
            self.resumed, self._tensors = found
        self.decisions: dict[str, Any] = {} if self.resumed is None else self.resumed["decisions"]
        self._parts: dict[str, Stateful] = {}

    @property
    def step(self) -> int:
        """Steps done in the checkpoint that the run resumes from; 0 for a new run."""
        return 0 if self.resumed is None else int(self.resumed["step"])

    def register(self, name: str, part: Stateful) -> None:
        """Save and restore ``part`` under a name of its own."""
        assert name not in self._parts
        self._parts[name] = part

    def decide(self, name: str, decide: Callable[[], Any]) -> Any:
        """Return a plain value that stays the same when the run resumes; ``decide`` finds it in a new run."""
        if name not in self.decisions:
            self.decisions[name] = decide()
        return self.decisions[name]

    def restore(self) -> None:
        """Restore all that is registered from the checkpoint, if the run resumes from one."""
        if self.resumed is None:
            return
        for name, part in self._parts.items():
            prefix = f"{name}/"
            own = {key.removeprefix(prefix): t for key, t in self._tensors.items() if key.startswith(prefix)}
            part.load_state_dict({**self.resumed["parts"][name], **own})
        self._tensors = {}

    def save(self, step: int) -> None:
        """Write a checkpoint after ``step`` steps (see write_checkpoint); all processes must call it."""
        tensors: dict[str, Tensor] = {}
        parts: dict[str, dict[str, Any]] = {}
        for name, part in self._parts.items():
            state = part.state_dict()
            tensors |= {f"{name}/{key}": value for key, value in state.items() if isinstance(value, Tensor)}
            parts[name] = {key: value for key, value in state.items() if not isinstance(value, Tensor)}
        if self.processes.is_main:
            values = {**self.header, "decisions": self.decisions, "parts": parts}
            write_checkpoint(self.work, step, tensors, values)
        self.processes.barrier()


class RandomState:
    """The state of torch's generators in every process of a run."""

    def __init__(self, processes: ProcessGroup, device: torch.device) -> None:
        self.processes = processes
        self.device = device

    def state_dict(self) -> dict[str, Tensor]:
        """Return each process's state by rank; all processes must call it."""
        states = {f"cpu.{rank}": t for rank, t in enumerate(self.processes.all_gather(torch.get_rng_state()))}
        if self.device.type == "cuda":
            gathered = self.processes.all_gather(torch.cuda.get_rng_state(self.device))
            states |= {f"cuda.{rank}": t for rank, t in enumerate(gathered)}
        return states

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore this process's state; a process that the checkpoint does not know keeps its own."""
        rank = self.processes.rank
        if f"cpu.{rank}" in state:
            torch.set_rng_state(state[f"cpu.{rank}"])
        if f"cuda.{rank}" in state and self.device.type == "cuda":
            torch.cuda.set_rng_state(state[f"cuda.{rank}"], self.device)


def write_checkpoint(work: Path, step: int, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Write a checkpoint folder, whole or not at all, and drop all but the last two.

    Raises:
        OSError: the disk is full, or cannot be written; the earlier checkpoints stay.
    """
    target = work / f"checkpoint-{step}"
    unfinished = work / f".{target.name}"
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir()
        file = unfinished / CHECKPOINT.tensors
        save_file({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}, file)
        record = {"format": FORMAT, "step": step, "sha256": _checksum(file), **values}
        (unfinished / CHECKPOINT.values).write_text(json.dumps(record), encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)  # of an earlier try at the same step
        unfinished.rename(target)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    for old in _folders(work)[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)


def latest(work: Path) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Read values and tensors of the newest checkpoint that is whole; None when there is no checkpoint.

    Raises:
        TrainingError: there are checkpoints, and all are damaged.
    """
    folders = _folders(work)
    for folder in folders:
        try:
            values = json.loads((folder / CHECKPOINT.values).read_text(encoding="utf-8"))
            file = folder / CHECKPOINT.tensors
            if values["format"] == FORMAT and values["sha256"] == _checksum(file):
                return values, load_file(file)
        except (OSError, ValueError, KeyError, SafetensorError):
            continue
    if folders:
        raise TrainingError(f"{work}: its checkpoints are damaged; start over with --force")
    return None


def has_checkpoint(work: Path) -> int | None:
    """Return the newest checkpoint's step, without reading it; None when there is none."""
    folders = _folders(work)
    return _step(folders[0]) if folders else None


def saved_values(work: Path, name: str) -> list[dict[str, Any]]:
    """Return the plain values of one registered part in every checkpoint that can be read."""
    found = []
    for folder in _folders(work):
        try:
            found.append(json.loads((folder / CHECKPOINT.values).read_text(encoding="utf-8"))["parts"][name])
        except (OSError, ValueError, KeyError):
            continue
    return found


def remove_checkpoints(work: Path) -> None:
    """Remove all of them: the run is finished."""
    for folder in _folders(work):
        shutil.rmtree(folder, ignore_errors=True)


def _folders(work: Path) -> list[Path]:
    """Return the checkpoints of a folder, newest first."""
    if not work.is_dir():
        return []
    found = [p for p in work.iterdir() if _NAME.fullmatch(p.name) and p.is_dir()]
    return sorted(found, key=_step, reverse=True)


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("checkpoint-"))


def _checksum(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
