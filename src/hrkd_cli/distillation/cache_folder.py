"""The folder of one set of cached teacher outputs: files that appear whole, and locks against other runs."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hrkd_cli.events import Note, OnEvent
from hrkd_cli.layout import CACHE

NAME = re.compile(r"[0-9a-f]{16}")  # of a folder that may be removed


class CacheFolder:
    """The folder ``root/name``; ``name`` is 16 hexadecimal digits."""

    def __init__(self, root: Path, name: str) -> None:
        self.root = root
        self.path = root / name
        self._in_use: IO[str] | None = None  # open, and so locked, for as long as this object lives

    def claim(self) -> None:
        """Make the folder and keep other runs from removing it; remove the others unless a run uses this root."""
        self.root.mkdir(parents=True, exist_ok=True)
        self._in_use = (self.root / CACHE.lock).open("a")
        if _lock(self._in_use, wait=False):
            for other in self.root.iterdir():
                if other != self.path and NAME.fullmatch(other.name):
                    shutil.rmtree(other, ignore_errors=True)
        # Before the lock is shared another run may remove this folder too: it is looked at only after that.
        _lock(self._in_use, shared=True)
        self.path.mkdir(exist_ok=True)

    @contextlib.contextmanager
    def building(self, on_event: OnEvent) -> Iterator[None]:
        """Wait for other runs that build the same outputs, and keep them waiting."""
        with (self.path / CACHE.lock).open("a") as file:
            if not _lock(file, wait=False):
                on_event(Note("teacher outputs: another run is computing the same ones; waiting for it"))
                _lock(file)
            yield

    def size(self) -> int:
        """Return the bytes that are there."""
        return sum(file.stat().st_size for file in self.path.glob("[0-9]*.safetensors"))

    def read(self, name: str) -> dict[str, Tensor] | None:
        """Return a file's tensors, mapped into memory; None when it is missing or not whole."""
        try:
            tensors: dict[str, Tensor] = load_file(self.path / name)  # compares the file's length with its header
        except (OSError, SafetensorError):
            return None
        return tensors

    def write(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Write a file.

        Raises:
            OSError, SafetensorError: the disk is full, or cannot be written; nothing is left.
        """
        unfinished = self.path / f".{name}"
        try:
            save_file(tensors, unfinished)
            with unfinished.open("rb+") as file:
                os.fsync(file.fileno())
            unfinished.replace(self.path / name)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise


def _lock(file: IO[str], *, shared: bool = False, wait: bool = True) -> bool:
    """Lock an open file until it is closed; False when another process holds it, or where there are no such locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True
