"""Kept teacher outputs on disk: shards that appear whole, with checksums, in a folder named by what they depend on.

A shard holds some consecutive train rows of one domain:

    N.bin           row after row, the chosen states of the row's real tokens: (U, tokens, H) 16-bit numbers
    N.safetensors   ``logits`` (rows, C), float32
    N.json          domain, first row, rows, checksums; written last: a shard without it does not count

Rows come in any order and are written by threads, which have the checksums on the way: the states' is that of all rows'
checksums, in row order. What is slow about a disk, the wait until a shard is on it, is no wait for the next shard.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from hrkd_cli.layout import CACHE

FORMAT = 2
SHARD_ROWS = 1024
BLOCK = 1 << 22  # bytes read at a time for a checksum
WRITERS = 8  # threads at most


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

    def missing(self, shards: list[Shard], sizes: Mapping[int, np.ndarray]) -> list[Shard]:
        """Return the shards that are not there, or not as they were written: every byte is looked at.

        Args:
            shards: those that there should be.
            sizes: bytes of each row's states, by the shard's number.
        """
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            good = pool.map(lambda shard: self._is_whole(shard, sizes[shard.number]), shards)
            return [shard for shard, fine in zip(shards, good, strict=True) if not fine]

    def read(self, shard: Shard) -> tuple[np.ndarray | None, dict[str, np.ndarray]]:
        """Return a shard's states, mapped into memory as 16-bit integers, and its small arrays."""
        states, small, _ = (self.path / name for name in shard.names())
        mapped = np.memmap(states, dtype=np.int16, mode="r") if states.stat().st_size else None
        return mapped, load_file(small)

    def _is_whole(self, shard: Shard, sizes: np.ndarray) -> bool:
        states, small, record = (self.path / name for name in shard.names())
        found = _read_json(record)
        if found is None or {name: found.get(name) for name in asdict(shard)} != asdict(shard):
            return False
        try:
            if states.stat().st_size != sizes.sum():
                return False
            if found.get("crc32_small") != _checksum(small):
                return False
            with states.open("rb") as file:
                sums = [zlib.crc32(file.read(int(size))) for size in sizes]
            return bool(found.get("crc32") == _of_all(sums))
        except OSError:
            return False


class RowWriter:
    """Writes the rows of one shard, in any order, while more of them are computed.

    Args:
        handle: the open file.
        sizes: bytes of each row, in the order in which they are to stand.
        pool: does the writing.
    """

    def __init__(self, handle: int, sizes: np.ndarray, pool: ThreadPoolExecutor) -> None:
        self.handle = handle
        self.sums = [0] * len(sizes)
        self._sizes = sizes
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        self._pool = pool
        self._under_way: list[Future[None]] = []
        self._alone = threading.Lock()

    def put(self, rows: Sequence[int], pieces: Sequence[Sequence[np.ndarray]]) -> None:
        """Write some rows, once those before them are written: no more than two batches are in memory.

        Args:
            rows: which.
            pieces: of each row, contiguous arrays; they must stay as they are.

        Raises:
            OSError: earlier rows could not be written.
        """
        self.finish()
        self._under_way = [self._pool.submit(self._write, *both) for both in zip(rows, pieces, strict=True)]

    def finish(self) -> None:
        """Wait until all rows are written.

        Raises:
            OSError: some could not be.
        """
        waiting, self._under_way = self._under_way, []
        problems = [problem for future in waiting if (problem := future.exception())]
        if problems:
            raise problems[0]

    def _write(self, row: int, pieces: Sequence[np.ndarray]) -> None:
        offset, found = int(self._starts[row]), 0
        for piece in pieces if self._sizes[row] else ():
            left = piece.data.cast("B")
            found = zlib.crc32(left, found)
            while len(left):
                written = self._write_at(left, offset)
                left, offset = left[written:], offset + written
        self.sums[row] = found

    def _write_at(self, data: memoryview, offset: int) -> int:
        if hasattr(os, "pwrite"):
            return os.pwrite(self.handle, data, offset)
        with self._alone:  # Windows: a file has one position
            os.lseek(self.handle, offset, os.SEEK_SET)
            return os.write(self.handle, data)


class ShardBuilder:
    """Writes shards one after the other; while one is computed, the one before it gets to the disk.

    A context: at its end all shards are whole, or an error says why not, and nothing of the others is left.
    """

    def __init__(self, folder: CacheFolder) -> None:
        self.folder = folder
        self._writers = ThreadPoolExecutor(min(WRITERS, os.cpu_count() or 1), thread_name_prefix="rows")
        self._finisher = ThreadPoolExecutor(1, thread_name_prefix="shards")
        self._last: Future[None] | None = None

    def __enter__(self) -> ShardBuilder:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for what is under way; raise its error unless there is one already."""
        self._finisher.shutdown()
        self._writers.shutdown()
        if kind is None:
            self._wait()

    def write(self, shard: Shard, sizes: np.ndarray, fill: Callable[[RowWriter], dict[str, np.ndarray]]) -> None:
        """Write a shard.

        Args:
            shard: which.
            sizes: bytes of each row's states.
            fill: gives the writer every row's states, and returns the small arrays.

        Raises:
            OSError: the disk is full, or cannot be written, by this shard or the one before it.
        """
        states, _, record = (self.folder.path / name for name in shard.names())
        record.unlink(missing_ok=True)
        unfinished = states.with_name(f".{states.name}")
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
        handle = os.open(unfinished, flags, 0o644)
        writer = RowWriter(handle, sizes, self._writers)
        try:
            arrays = fill(writer)
            writer.finish()
            self._wait()
        except BaseException:
            self._writers.shutdown()  # whatever was under way: nobody may write into a file that is closed
            os.close(handle)
            self._remove(shard, unfinished)
            raise
        self._last = self._finisher.submit(self._finish, shard, unfinished, writer, arrays)

    def _finish(self, shard: Shard, unfinished: Path, writer: RowWriter, arrays: dict[str, np.ndarray]) -> None:
        states, small, record = (self.folder.path / name for name in shard.names())
        try:
            try:
                os.fsync(writer.handle)
            finally:
                os.close(writer.handle)
            unfinished.replace(states)
            save_file(arrays, small)
            sums = {"crc32": _of_all(writer.sums), "crc32_small": _checksum(small)}
            _write_whole(record, json.dumps({**asdict(shard), **sums}).encode())
        except BaseException:
            self._remove(shard, unfinished)
            raise

    def _remove(self, shard: Shard, unfinished: Path) -> None:
        for file in (unfinished, *(self.folder.path / name for name in shard.names())):
            file.unlink(missing_ok=True)

    def _wait(self) -> None:
        last, self._last = self._last, None
        if last is not None:
            last.result()


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


def _of_all(sums: Sequence[int]) -> int:
    """Return the checksum of the rows' checksums."""
    return zlib.crc32(np.array(sums, dtype="<u4").tobytes())


def _checksum(file: Path) -> int:
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
