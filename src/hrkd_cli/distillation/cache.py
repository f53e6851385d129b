"""The teachers' outputs on the train split, computed once, kept on disk and read by every epoch and later run.

Kept at real lengths, in 16 bits: the hidden states at the matched layers, and either the queries and keys of those
layers or the states that enter them, from which queries and keys are two matrix products away
(``hrkd_cli.models.querykey``). The former take about half as much again on disk and save a tenth of a CPU's step; a GPU
has the products for nothing. Attention scores are never stored.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hrkd_cli.distillation.cache_files import CacheFolder, RowWriter, Shard, ShardBuilder, plan_shards
from hrkd_cli.distillation.teachers import Teachers
from hrkd_cli.events import OnEvent, Progress
from hrkd_cli.models.capture import Capture, Captured, select_columns
from hrkd_cli.models.encoding import Encoded, Encoder
from hrkd_cli.models.folder import model_fingerprint
from hrkd_cli.models.precision import Arithmetic
from hrkd_cli.models.querykey import QueryKeys
from hrkd_cli.models.sizes import sizes_of
from hrkd_cli.training.process_group import ProcessGroup

TOKENS = {"cpu": 1024, "cuda": 65536, "mps": 8192}  # padded tokens of a batch when outputs are computed
PROBE_ROWS = 4


@dataclass(frozen=True, slots=True)
class Kept:
    """What of each row is kept.

    Attributes:
        states: hidden states by number (0 for the embedding), in file order.
        scored: layers whose queries and keys are kept as they are, 1-based; empty where they are computed anew.
        width: H.
        layers: the matched layers.
        attention: whether queries and keys are wanted at all.
    """

    states: tuple[int, ...]
    scored: tuple[int, ...]
    width: int
    layers: tuple[int, ...]
    attention: bool

    @classmethod
    def of(cls, layers: tuple[int, ...], width: int, *, attention: bool, products: bool) -> Kept:
        """Choose what to keep; ``products`` tells whether queries and keys can be computed from what enters a layer.

        The compared states come first, in the order of the student's layers: they are read as one piece.
        """
        states = (0, *layers) if layers else ()
        if attention and products:
            states += tuple(n - 1 for n in layers if n - 1 not in states)
        return cls(states, layers if attention and not products else (), width, layers, attention)

    @property
    def units(self) -> int:
        """Vectors of ``width`` numbers a token."""
        return len(self.states) + 2 * len(self.scored)


class TeacherCache:
    """Plans and builds the kept outputs of some teachers; ``CachedTeachers`` reads them.

    Args:
        root: folder of all kept outputs.
        teachers: one a domain.
        rows: the train split as the teachers see it: (encoder, token ids by domain).
        layers: matched layers, 1-based; empty for logits only.
        attention: whether attention scores are compared.
        derived: whether queries and keys are to be computed from the states that enter a layer, where the architecture
            allows it.
        arithmetic: precision of the teachers' forward pass, and the device.
        processes: the processes that share the building.
    """

    def __init__(
        self,
        root: Path,
        teachers: Teachers,
        rows: tuple[Encoder, Mapping[str, Encoded]],
        *,
        layers: Sequence[int],
        attention: bool,
        derived: bool = True,
        arithmetic: Arithmetic,
        processes: ProcessGroup,
    ) -> None:
        self.teachers = teachers
        self.encoder, encoded = rows
        self.encoded = {domain: encoded[domain] for domain in teachers.models}
        self.arithmetic = arithmetic
        self.processes = processes
        self.captures = {id(m): Capture(m, layers, attention=attention) for m in teachers.models.values()}
        self.query_keys: dict[int, QueryKeys] = {}
        self.kept = self._plan(tuple(layers), attention=attention, derived=derived)
        self.lengths = {domain: e.lengths() for domain, e in self.encoded.items()}
        self.shards = plan_shards({domain: len(e) for domain, e in self.encoded.items()})
        self.sizes = {s.number: self._sizes(s) for s in self.shards}
        self.key = self._key()
        name = hashlib.sha256(repr(sorted(self.key.items())).encode()).hexdigest()[:16]
        self.folder = CacheFolder(root / name, self.key)

    @property
    def bytes(self) -> int:
        """What the states take on disk."""
        return sum(int(sizes.sum()) for sizes in self.sizes.values())

    @property
    def rows(self) -> int:
        """Train rows of all domains."""
        return sum(len(e) for e in self.encoded.values())

    def build(self, on_event: OnEvent) -> int:
        """Compute what is missing or damaged, each process its part; return the rows that had to be computed.

        Raises:
            OSError: the disk is full, or cannot be written.
        """
        self.processes.main_first(self.folder.prepare)
        missing = self.folder.missing(self.shards, self.sizes)
        self.processes.barrier()  # before anyone writes, all have looked
        total = sum(shard.rows for shard in missing)
        before = 0
        with ShardBuilder(self.folder) as builder:
            for shard in self.processes.shard(missing):
                tell = partial(self._tell, on_event, before, total)
                builder.write(shard, self.sizes[shard.number], partial(self._compute, shard, tell))
                before += shard.rows
        self.processes.barrier()
        return total

    def batches(self, shard: Shard) -> list[np.ndarray]:
        """Return the shard's rows in fixed batches of similar length."""
        lengths = self.lengths[shard.domain][shard.first : shard.first + shard.rows]
        order = np.argsort(-lengths, kind="stable")
        found, start = [], 0
        while start < len(order):
            size = max(1, TOKENS[self.arithmetic.device.type] // int(lengths[order[start]]))
            found.append(order[start : start + size] + shard.first)
            start += size
        return found

    @torch.no_grad()
    def forward(self, domain: str, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Run a domain's teacher on some of its rows.

        Returns:
            States (R, U, T, H) in 16 bits, and logits (R, C) of the domain's labels in float32.
        """
        model = self.teachers.models[domain]
        batch = self.encoder.collate(self.encoded[domain], list(rows), self.arithmetic.device)
        with self.arithmetic.forward():
            seen = self.captures[id(model)](batch)
        logits = select_columns(seen.logits.float(), self.teachers.heads.columns[domain])
        if not self.kept.units:
            return logits.new_zeros((len(rows), 0, 0, 0)), logits
        by_number = {0: seen.hidden[0]}
        by_number |= dict(zip(self.kept.layers, seen.hidden[1:], strict=True))
        by_number |= {n - 1: t for n, t in zip(self.kept.layers, seen.entering, strict=True)}
        parts = [by_number[n] for n in self.kept.states]
        for queries, keys in zip(seen.queries, seen.keys, strict=True) if self.kept.scored else ():
            parts += [t.transpose(1, 2).flatten(2) for t in (queries, keys)]
        stored = self.arithmetic.stored
        if stored is torch.float16:  # bf16 reaches as far as float32
            limit = torch.finfo(stored).max
            parts = [p.float().clamp(-limit, limit) for p in parts]
        return torch.stack([p.to(stored) for p in parts], dim=1), logits

    @property
    def heads(self) -> int:
        """A."""
        return sizes_of(self.teachers.root.config).heads

    def split(self, scored: Tensor) -> tuple[Tensor, Tensor]:
        """Return queries and keys, (L, R, A, T, d) each, that are kept as they are, (2 L, R, T, H)."""
        both = scored.view(*scored.shape[:3], self.heads, -1).transpose(2, 3)
        return both[0::2], both[1::2]

    def entering(self, states: Tensor) -> Tensor:
        """Return what enters the matched layers, (L, ...), of kept states (U, ...)."""
        numbers = [self.kept.states.index(n - 1) for n in self.kept.layers]
        first, last = numbers[0], numbers[-1]
        whole = numbers == list(range(first, last + 1))
        return states[first : last + 1] if whole else states[numbers]

    def _plan(self, layers: tuple[int, ...], *, attention: bool, derived: bool) -> Kept:
        """Find out what has to be kept, trying each teacher on a few rows."""
        width = sizes_of(self.teachers.root.config).width
        if not layers or not attention or not derived:
            return Kept.of(layers, width, attention=attention and bool(layers), products=False)
        for domain, model in self.teachers.models.items():
            if id(model) in self.query_keys:
                continue
            encoded = self.encoded[domain]
            rows = list(range(min(PROBE_ROWS, len(encoded))))
            with torch.no_grad(), self.arithmetic.exact():
                seen: Captured = self.captures[id(model)](self.encoder.collate(encoded, rows, self.arithmetic.device))
            found = QueryKeys.find(model, layers, seen, self.arithmetic.dtype)
            if found is None:
                return Kept.of(layers, width, attention=True, products=False)
            self.query_keys[id(model)] = found
        return Kept.of(layers, width, attention=True, products=True)

    def _sizes(self, shard: Shard) -> np.ndarray:
        """Return the bytes of each row's states."""
        lengths = self.lengths[shard.domain][shard.first : shard.first + shard.rows]
        return lengths * self.kept.units * self.kept.width * 2

    def _key(self) -> dict[str, Any]:
        """Return everything that the outputs depend on."""
        folders = {domain: self.teachers.folders[domain] for domain in self.teachers.models}
        prints = {folder: model_fingerprint(folder) for folder in set(folders.values())}
        return {
            "teachers": {domain: prints[folder] for domain, folder in folders.items()},
            "texts": {domain: _fingerprint(e) for domain, e in self.encoded.items()},
            "labels": {domain: list(labels) for domain, labels in self.teachers.heads.labels.items()},
            "states": list(self.kept.states),
            "scored": list(self.kept.scored),
            "precision": str(self.arithmetic.precision),
            "stored": str(self.arithmetic.stored),
            "device": self.arithmetic.device.type,
        }

    def _tell(self, on_event: OnEvent, before: int, total: int, rows: int) -> None:
        on_event(Progress("teacher outputs", min(total, (before + rows) * self.processes.size), total))

    def _compute(self, shard: Shard, tell: Callable[[int], None], writer: RowWriter) -> dict[str, np.ndarray]:
        """Give a shard's states to the writer, batch by batch; return the small arrays."""
        lengths = self.lengths[shard.domain]
        logits = np.zeros((shard.rows, len(self.teachers.heads.labels[shard.domain])), dtype=np.float32)
        done = 0
        for rows in self.batches(shard):
            states, own_logits = self.forward(shard.domain, rows.tolist())
            inside = rows - shard.first
            logits[inside] = own_logits.cpu().numpy()
            if states.numel():
                host = states.view(torch.int16).cpu().numpy()
                # Without its padding each state of a row is one piece of memory.
                pieces = [[state[: lengths[row]] for state in own] for row, own in zip(rows, host, strict=True)]
                writer.put(inside.tolist(), pieces)
            done += len(rows)
            tell(done)
        return {"logits": logits}


def measure_rates(cache: TeacherCache, folder: Path) -> tuple[float, float]:
    """Return rows/s of running the teachers and of reading their outputs back, on two real batches.

    Raises:
        OSError: the disk cannot be written.
    """
    shard = max(cache.shards, key=lambda s: s.rows)
    batches = cache.batches(shard)
    rows = batches[len(batches) // 2].tolist()
    cache.forward(shard.domain, rows)
    tick = time.perf_counter()
    states = cache.forward(shard.domain, rows)[0].view(torch.int16).cpu().numpy()
    computing = len(rows) / max(1e-9, time.perf_counter() - tick)
    probe = folder / f".probe-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with probe.open("wb") as file:
            file.write(np.ascontiguousarray(states).tobytes())
            file.flush()
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):  # read from the disk itself, not from memory
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        tick = time.perf_counter()
        probe.read_bytes()
        return computing, len(rows) / max(1e-9, time.perf_counter() - tick)
    finally:
        probe.unlink(missing_ok=True)


def _fingerprint(encoded: Encoded) -> str:
    digest = hashlib.sha256()
    for ids in encoded.ids:
        digest.update(len(ids).to_bytes(4, "little") + ids.tobytes())
    for types in encoded.types or ():
        digest.update(types.tobytes())
    return digest.hexdigest()
