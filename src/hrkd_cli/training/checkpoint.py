"""Checkpoints, with everything that a run needs to resume as if it had not been interrupted.

A checkpoint is a folder ``checkpoint-STEP`` in the run's working folder with ``state.safetensors`` (tensors) and
``checkpoint.json`` (plain values and a checksum). It is renamed into place, and the last two are kept. It can hold any
object with torch's ``state_dict()`` and ``load_state_dict()`` whose state is a flat dict of tensors and plain values.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hrkd_cli.errors import ModelError, TrainingError
from hrkd_cli.json_files import read_json, read_json_or_empty
from hrkd_cli.layout import CHECKPOINT, partial_folder
from hrkd_cli.outputs import checkpoint_folders
from hrkd_cli.predict.selfcheck import sha256_of
from hrkd_cli.training.process_group import ProcessGroup

if TYPE_CHECKING:
    from torch.distributed.checkpoint.stateful import Stateful

KEPT_CHECKPOINTS = 2
FORMAT = 5
TENSORS = "state.safetensors"


class Checkpointer:
    """Saves and restores the state of a run.

    Args:
        out: output of the run; until it is complete, the run writes to the folder ``work``.
        processes: the processes of the run; the main one writes.
        header: plain values that identify the run.
        resume: start from the newest checkpoint, if there is one.

    Attributes:
        resumed: values of the checkpoint that the run resumes from; None for a new run.
        step: step of that checkpoint; 0 for a new run.
        decisions: plain values that are decided once per run, like the batch size of ``--batch-size auto``.
        parts: the objects that are saved and restored, by name.

    Raises:
        TrainingError: there are checkpoints, and all are damaged.
    """

    def __init__(self, out: Path, processes: ProcessGroup, header: Mapping[str, Any], *, resume: bool) -> None:
        self.out, self.work = out, partial_folder(out.resolve())
        self.processes = processes
        self.header = dict(header)
        latest = load_latest_checkpoint(self.work) if resume else None
        self.resumed: dict[str, Any] | None = latest[0] if latest else None
        self._tensors: dict[str, Tensor] = latest[1] if latest else {}
        self.decisions: dict[str, Any] = {} if self.resumed is None else self.resumed["decisions"]
        self.step = 0 if self.resumed is None else int(self.resumed["step"])
        self.parts: dict[str, Stateful] = {}

    def restore(self) -> None:
        """Restore all parts, if the run resumes from a checkpoint."""
        if self.resumed is None:
            return
        for name, part in self.parts.items():
            prefix = f"{name}/"
            tensors = {key.removeprefix(prefix): t for key, t in self._tensors.items() if key.startswith(prefix)}
            part.load_state_dict({**self.resumed["parts"][name], **tensors})
        self._tensors = {}

    def save(self, step: int) -> None:
        """Write a checkpoint after ``step`` steps (see ``write_checkpoint``); all processes must call it."""
        tensors: dict[str, Tensor] = {}
        parts: dict[str, dict[str, Any]] = {}
        for name, part in self.parts.items():
            state = part.state_dict()
            tensors |= {f"{name}/{key}": value for key, value in state.items() if isinstance(value, Tensor)}
            parts[name] = {key: value for key, value in state.items() if not isinstance(value, Tensor)}
        if self.processes.is_main:
            values = {**self.header, "decisions": self.decisions, "parts": parts}
            write_checkpoint(self.work, step, tensors, values)
        self.processes.barrier()


@dataclass(frozen=True, slots=True)
class RandomState:
    """State of torch's random generators in every process of a run."""

    processes: ProcessGroup
    device: torch.device

    def state_dict(self) -> dict[str, Tensor]:
        """Return the states of all processes as ``DEVICE.RANK``; all processes must call it."""
        states = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.device)
        by_rank = enumerate(self.processes.all_gather(states))
        return {f"{device}.{rank}": state for rank, states in by_rank for device, state in states.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the state of this process, if the checkpoint has one for its rank."""
        rank = self.processes.rank
        if f"cpu.{rank}" in state:
            torch.set_rng_state(state[f"cpu.{rank}"])
        if f"cuda.{rank}" in state and self.device.type == "cuda":
            torch.cuda.set_rng_state(state[f"cuda.{rank}"], self.device)


def write_checkpoint(work: Path, step: int, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Write a checkpoint folder and remove all but the last two; an error leaves the earlier ones unchanged."""
    target = work / f"checkpoint-{step}"
    unfinished = work / f".{target.name}"
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        file = unfinished / TENSORS
        save_file(to_host(tensors), file)
        content = {"format": FORMAT, "step": step, "sha256": sha256_of(file), **values}
        (unfinished / CHECKPOINT).write_text(json.dumps(content), encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)  # of an earlier attempt at the same step
        unfinished.rename(target)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    remove_checkpoints(work, keep=KEPT_CHECKPOINTS)


def to_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous copies in host memory that do not share storage, as safetensors needs them."""
    return {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}


def load_latest_checkpoint(work: Path) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Return values and tensors of the newest undamaged checkpoint; None if there is no checkpoint.

    Raises:
        TrainingError: there are checkpoints, and all are damaged or of another version.
    """
    folders, is_other_version = checkpoint_folders(work), False
    for folder in folders:
        try:
            values, file = read_json(folder / CHECKPOINT), folder / TENSORS
            is_other_version |= values["format"] != FORMAT
            if values["format"] == FORMAT and values["sha256"] == sha256_of(file):
                return values, load_file(file)
        except (OSError, ModelError, KeyError, SafetensorError):
            continue
    if is_other_version:
        raise TrainingError(
            f"{work}: another version of hrkd made its checkpoints; resume with that version, or start over with "
            "--force"
        )
    if folders:
        raise TrainingError(f"{work}: all checkpoints are damaged; start over with --force")
    return None


def saved_values(work: Path) -> list[dict[str, Any]]:
    """Return the plain values of every checkpoint of this version, newest first."""
    checkpoints = (read_json_or_empty(folder / CHECKPOINT) for folder in checkpoint_folders(work))
    return [values for values in checkpoints if values.get("format") == FORMAT]


def remove_checkpoints(work: Path, *, keep: int = 0) -> None:
    """Remove all checkpoints but the newest."""
    for folder in checkpoint_folders(work)[keep:]:
        shutil.rmtree(folder, ignore_errors=True)
