"""Kept teacher outputs on disk: shards that appear whole, with checksums, in a folder named by what they depend on.

A shard holds some consecutive train rows of one domain:

    N.bin           row after row, the chosen states of the row's real tokens: (U, tokens, H) 16-bit numbers
    N.safetensors   ``logits`` (rows, C) and ``energies`` (L, rows), float32
    N.json          domain, first row, rows, checksums; written last: a shard without it does not count
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from hrkd_cli.layout import CACHE

FORMAT = 1
SHARD_ROWS = 1024
BLOCK = 1 << 22  # bytes read at a time for a checksum


@dataclass(frozen=True, slots=True)
class Shard:
    """Which rows a shard holds.

    Attributes:
        number: of the shard, from 0.
        domain: name.
        first: its first row.
        rows: how many.
    """

    number: int
    domain: str
    first: int
    rows: int

    def names(self) -> tuple[str, str, str]:
        """Return its file names: states, small arrays, record."""
        return f"{self.number:05d}.bin", f"{self.number:05d}.safetensors", f"{self.number:05d}.json"


def plan_shards(rows: Mapping[str, int]) -> list[Shard]:
    """Cut every domain's rows into shards."""
    parts = [(d, first, min(SHARD_ROWS, n - first)) for d, n in rows.items() for first in range(0, n, SHARD_ROWS)]
    return [Shard(number, domain, first, count) for number, (domain, first, count) in enumerate(parts)]


class CacheFolder:
    """The folder of one set of teacher outputs.

    Args:
        path: the folder.
        key: what it depends on, as plain values; written into it for people to read.
    """

    def __init__(self, path: Path, key: Mapping[str, Any]) -> None:
        self.path = path
        self.key = dict(key)

    def prepare(self) -> None:
        """Make the folder; remove what is not of this key and what a killed run left half-written."""
        self.path.mkdir(parents=True, exist_ok=True)
        index = self.path / CACHE.index
        if _read_json(index) != {"format": FORMAT, "key": self.key}:
            for file in self.path.iterdir():
                if file.name != CACHE.lock:
                    file.unlink()
            _write_whole(index, json.dumps({"format": FORMAT, "key": self.key}, indent=1).encode())
        for file in self.path.glob(".*"):
            if file.name != CACHE.lock:
                file.unlink(missing_ok=True)
        os.utime(index)  # last used now

    @contextlib.contextmanager
    def locked(self, waiting: Callable[[], None]) -> Iterator[None]:
        """Keep other runs from building the same outputs; ``waiting`` is called when one does already."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / CACHE.lock).open("a") as file:
            try:
                import fcntl
            except ImportError:  # Windows: there are no such locks, and two builders write the same bytes
                yield
                return
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                waiting()
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def missing(self, shards: list[Shard], sizes: Mapping[int, int]) -> list[Shard]:
        """Return the shards that are not there, or not as they were written: every byte is looked at.

        Args:
            shards: those that there should be.
            sizes: bytes of each one's states, by number.
        """
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            good = pool.map(lambda shard: self._is_whole(shard, sizes[shard.number]), shards)
            return [shard for shard, fine in zip(shards, good, strict=True) if not fine]

    def write(self, shard: Shard, fill: Callable[[int], dict[str, np.ndarray]]) -> None:
        """Write a shard.

        Args:
            shard: which.
            fill: writes the states into the open file that it is given, and returns the small arrays.

        Raises:
            OSError: the disk is full, or cannot be written; nothing of the shard is left.
        """
        states, small, record = (self.path / name for name in shard.names())
        record.unlink(missing_ok=True)
        unfinished = self.path / f".{states.name}"
        try:
            handle = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
            try:
                arrays = fill(handle)
                os.fsync(handle)
            finally:
                os.close(handle)
            unfinished.replace(states)
            save_file(arrays, small)
            sums = {"crc32": checksum(states), "crc32_small": checksum(small)}
            _write_whole(record, json.dumps({**asdict(shard), **sums}).encode())
        except BaseException:
            for file in (unfinished, states, small, record):
                file.unlink(missing_ok=True)
            raise

    def read(self, shard: Shard) -> tuple[np.ndarray | None, dict[str, np.ndarray]]:
        """Return a shard's states, mapped into memory as 16-bit integers, and its small arrays."""
        states, small, _ = (self.path / name for name in shard.names())
        mapped = np.memmap(states, dtype=np.int16, mode="r") if states.stat().st_size else None
        return mapped, load_file(small)

    def _is_whole(self, shard: Shard, size: int) -> bool:
        states, small, record = (self.path / name for name in shard.names())
        found = _read_json(record)
        if found is None or {name: found.get(name) for name in asdict(shard)} != asdict(shard):
            return False
        try:
            if states.stat().st_size != size:
                return False
            return found.get("crc32") == checksum(states) and found.get("crc32_small") == checksum(small)
        except OSError:
            return False


def bytes_of(folder: Path) -> int:
    """Return what a folder of kept outputs takes on disk."""
    return sum(file.stat().st_size for file in folder.iterdir()) if folder.is_dir() else 0


def make_room(root: Path, keep: Path, needed: int, limit: int) -> bool:
    """Remove the kept outputs that were used longest ago until ``needed`` more bytes stay within ``limit``.

    Args:
        root: the folder of all kept outputs.
        keep: the one that is about to be built.
        needed: bytes that it will take when whole.
        limit: bytes that all may take.

    Returns:
        Whether they can.
    """
    if needed > limit:
        return False
    others = [p for p in root.iterdir() if p != keep and (p / CACHE.index).is_file()] if root.is_dir() else []
    others.sort(key=lambda p: (p / CACHE.index).stat().st_mtime)
    taken = {p: bytes_of(p) for p in others}
    for old in others:
        if needed + sum(taken.values()) <= limit:
            break
        shutil.rmtree(old, ignore_errors=True)
        del taken[old]
    return True


def checksum(file: Path) -> int:
    """Return a file's CRC-32."""
    found = 0
    with file.open("rb") as stream:
        while block := stream.read(BLOCK):
            found = zlib.crc32(block, found)
    return found


def _read_json(file: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _write_whole(file: Path, content: bytes) -> None:
    unfinished = file.with_name(f".{file.name}")
    unfinished.write_bytes(content)
    unfinished.replace(file)
