"""Checkpoints: everything that a run needs to go on as if it had never stopped.

A checkpoint is a folder ``checkpoint-STEP`` in the run's working folder, which appears by a rename and is therefore
whole: ``state.safetensors`` (weights, optimizer, random states) and ``checkpoint.json`` (the rest, and a checksum). The
last two are kept.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hrkd_cli.errors import TrainingError
from hrkd_cli.layout import CHECKPOINT

KEPT = 2
FORMAT = 1
_NAME = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A run's state after ``step`` steps.

    Attributes:
        step: steps done.
        tensors: weights, optimizer, random states, by name.
        values: everything else, as plain values.
    """

    step: int
    tensors: dict[str, Tensor]
    values: dict[str, Any]

    def write(self, work: Path) -> None:
        """Write it into a run's working folder and drop all but the last two.

        Raises:
            OSError: the disk is full, or cannot be written; the earlier checkpoints stay.
        """
        target = work / f"checkpoint-{self.step}"
        unfinished = work / f".{target.name}"
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            unfinished.mkdir()
            file = unfinished / CHECKPOINT.tensors
            save_file({name: t.detach().cpu().contiguous().clone() for name, t in self.tensors.items()}, file)
            record = {"format": FORMAT, "step": self.step, "crc32": _checksum(file), **self.values}
            (unfinished / CHECKPOINT.values).write_text(json.dumps(record), encoding="utf-8")
            for name in (CHECKPOINT.tensors, CHECKPOINT.values):
                _to_disk(unfinished / name)
            shutil.rmtree(target, ignore_errors=True)  # of an earlier try at the same step
            unfinished.rename(target)
            _to_disk(work)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        for old in _folders(work)[KEPT:]:
            shutil.rmtree(old, ignore_errors=True)


def latest(work: Path) -> Checkpoint | None:
    """Read the newest checkpoint of a working folder that is whole; None when there is none.

    Raises:
        TrainingError: there are checkpoints, and all are damaged.
    """
    folders = _folders(work)
    for folder in folders:
        try:
            values = json.loads((folder / CHECKPOINT.values).read_text(encoding="utf-8"))
            file = folder / CHECKPOINT.tensors
            if values.pop("format") != FORMAT or values.pop("crc32") != _checksum(file):
                continue
            return Checkpoint(int(values.pop("step")), load_file(file), values)
        except (OSError, ValueError, KeyError, SafetensorError):
            continue
    if folders:
        raise TrainingError(f"{work}: its checkpoints are damaged; start over with --force")
    return None


def has_checkpoint(work: Path) -> int | None:
    """Return the newest checkpoint's step, without reading it; None when there is none."""
    folders = _folders(work)
    return _step(folders[0]) if folders else None


def referenced(work: Path) -> set[str]:
    """Return the names of weight files that some checkpoint still needs."""
    names: set[str] = set()
    for folder in _folders(work):
        try:
            values: Mapping[str, Any] = json.loads((folder / CHECKPOINT.values).read_text(encoding="utf-8"))
            names |= {kept["file"] for kept in values["best"].values()}
        except (OSError, ValueError, KeyError):
            continue
    return names


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
    match = _NAME.fullmatch(folder.name)
    return int(match[1]) if match else -1


def _checksum(file: Path) -> int:
    found = 0
    with file.open("rb") as stream:
        while block := stream.read(1 << 22):
            found = zlib.crc32(block, found)
    return found


def _to_disk(path: Path) -> None:
    """Have the system write a file or folder out before anything relies on it."""
    if os.name != "posix" and path.is_dir():
        return  # folders cannot be opened there
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
