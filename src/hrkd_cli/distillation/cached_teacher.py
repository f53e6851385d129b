"""Teacher outputs on the train split, computed once and kept on disk for every epoch and later run.

They lie in ``teacher-cache/KEY`` beside the output; KEY is a hash of everything that they depend on. A shard (one
safetensors file) holds R rows of one domain, of similar length, their N tokens one after the other without padding:

    hidden   (L+1, N, H)  the embedding output and the matched layers, 16-bit; absent when only logits are compared
    queries  (L, N, A d)  divided by sqrt(d), 16-bit; absent, as ``keys``, without the attention loss
    keys     (L, N, A d)
    logits   (R, C)       as OnlineTeacher gives them, float32
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hrkd_cli.distillation.cache_folder import CacheFolder
from hrkd_cli.distillation.teacher_outputs import OnlineTeacher
from hrkd_cli.errors import OutputError
from hrkd_cli.events import OnEvent, Progress
from hrkd_cli.method import TeacherSignals
from hrkd_cli.models.encoding import Batch, Encoded, to_device
from hrkd_cli.models.folder import model_fingerprint
from hrkd_cli.models.precision import Arithmetic
from hrkd_cli.models.sizes import sizes_of
from hrkd_cli.training.process_group import ProcessGroup
from hrkd_cli.training.rows import Pick

FORMAT = 3
SHARD_BYTES = 1 << 27
BATCH_TOKENS = {"cpu": 1024, "cuda": 65536, "mps": 8192}  # padded tokens of a batch when outputs are computed


class CachedTeacher:
    """Computes and reads the cache of an online teacher.

    Args:
        root: folder of all cached outputs.
        online: runs the teachers.
        arithmetic: precision of their forward pass, and the device.
        processes: those that share the building.
    """

    def __init__(self, root: Path, online: OnlineTeacher, *, arithmetic: Arithmetic, processes: ProcessGroup) -> None:
        self.root = root
        self.online = online
        self.arithmetic = arithmetic
        self.processes = processes
        self.sizes = sizes_of(online.teachers.root.config)
        self.domains = list(online.teachers.models)
        layers = len(online.layers)
        self.vectors = {"hidden": layers + 1} if layers else {}  # of H numbers for each token
        self.vectors |= dict.fromkeys(("queries", "keys"), layers) if online.attention else {}
        self.shards: list[tuple[str, np.ndarray]] = []  # domain and row numbers
        # For each row its shard, its number there, and its first and last + 1 token there.
        self.places = {domain: np.zeros((len(online.encoded[domain]), 4), dtype=np.int64) for domain in self.domains}
        self.tensors: list[dict[str, Tensor]] = []  # of each shard, once built
        self.bytes = 0
        for domain in self.domains:
            self._plan(domain, online.encoded[domain].lengths())

    @cached_property
    def folder(self) -> CacheFolder:
        """Where the outputs are; finding out reads the teachers' weights."""
        online, teachers = self.online, self.online.teachers
        prints = {folder: model_fingerprint(folder) for folder in set(teachers.folders.values())}
        key = {
            "format": FORMAT,
            "teachers": {domain: prints[teachers.folders[domain]] for domain in self.domains},
            "texts": {domain: _fingerprint(online.encoded[domain]) for domain in self.domains},
            "labels": {domain: list(teachers.heads.labels[domain]) for domain in self.domains},
            "layers": list(online.layers),
            "attention": online.attention,
            "precision": str(self.arithmetic.precision),
            "device": self.arithmetic.device.type,
        }
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        return CacheFolder(self.root, name)

    def build(self, on_event: OnEvent) -> int:
        """Compute what is missing or damaged, each process its part; return the rows that had to be computed.

        Raises:
            OSError, SafetensorError: the disk is full, or cannot be written.
            OutputError: a shard was removed meanwhile.
        """
        with self.folder.building(on_event) if self.processes.is_main else contextlib.nullcontext():
            self.processes.barrier()
            missing = [n for n in range(len(self.shards)) if self._read(n) is None]
            self.processes.barrier()  # all have looked before any writes
            total, done = sum(len(self.shards[n][1]) for n in missing), 0

            def tell(rows: int) -> None:
                on_event(Progress("teacher outputs", min(total, (done + rows) * self.processes.size), total))

            for number in self.processes.shard(missing):
                self.folder.write(_name(number), self._compute(*self.shards[number], tell))
                done += len(self.shards[number][1])
            self.processes.barrier()
        for number in range(len(self.shards)):
            tensors = self._read(number)
            if tensors is None:
                raise OutputError(f"{self.folder.path / _name(number)} was removed or changed; go on with --resume")
            self.tensors.append(tensors)
        return total

    def load(self, picks: Sequence[Pick], batch: Batch) -> TeacherSignals:
        """See TeacherOutputs; padding is 0."""
        del batch  # the texts are the same, and so are their lengths
        places = np.stack([self.places[domain][row] for domain, row in picks])
        longest = int((places[:, 3] - places[:, 2]).max())
        padded = {
            name: torch.empty((count, len(picks), longest, self.sizes.width), dtype=self.arithmetic.stored)
            for name, count in self.vectors.items()
        }
        for row, (shard, _, first, last) in enumerate(places.tolist()):
            for name, out in padded.items():
                out[:, row, : last - first] = self.tensors[shard][name][:, first:last]
                out[:, row, last - first :] = 0
        logits = torch.stack([self.tensors[shard]["logits"][inside] for shard, inside in places[:, :2].tolist()])
        states = {name: to_device(t, self.arithmetic.device) for name, t in padded.items()}
        queries, keys = (
            states[name].view(*states[name].shape[:3], self.sizes.heads, -1).transpose(2, 3) if name in states else None
            for name in ("queries", "keys")
        )
        logits = to_device(logits, self.arithmetic.device)
        return TeacherSignals(states.get("hidden"), queries, keys, logits)

    def signals(self, loaded: TeacherSignals, numbers: Tensor) -> TeacherSignals:
        """See TeacherOutputs."""
        del numbers  # the logits are those of each row's own labels
        return loaded

    def _plan(self, domain: str, lengths: np.ndarray) -> None:
        """Put a domain's rows, the longest first, into shards of about SHARD_BYTES."""
        rows = np.argsort(-lengths, kind="stable")
        per_token = 2 * sum(self.vectors.values()) * self.sizes.width
        ends = np.cumsum(lengths[rows] * per_token + 4 * self.online.columns.classes)
        self.bytes += int(ends[-1])
        for own in np.split(rows, np.flatnonzero(np.diff(ends // SHARD_BYTES)) + 1):
            last, inside = np.cumsum(lengths[own]), np.arange(len(own))
            columns = (np.full_like(own, len(self.shards)), inside, last - lengths[own], last)
            self.places[domain][own] = np.stack(columns, axis=1)
            self.shards.append((domain, own))

    def _read(self, number: int) -> dict[str, Tensor] | None:
        return self.folder.read(_name(number))

    @torch.no_grad()
    def _compute(self, domain: str, rows: np.ndarray, tell: Callable[[int], None]) -> dict[str, Tensor]:
        """Run the teacher on a shard's rows, in batches that depend on nothing else; return what is kept."""
        device, encoded = self.arithmetic.device, self.online.encoded[domain]
        parts: dict[str, list[Tensor]] = {name: [] for name in (*self.vectors, "logits")}
        first = 0
        while first < len(rows):
            longest = max(1, len(encoded.ids[rows[first]]))
            own = rows[first : first + max(1, BATCH_TOKENS[device.type] // longest)].tolist()
            batch = self.online.encoder.collate(encoded, own, device)
            loaded = self.online.load([(domain, row) for row in own], batch)
            with self.arithmetic.forward():
                found = self.online.signals(loaded, torch.full((len(own),), self.domains.index(domain), device=device))
            parts["logits"].append(found.logits.float().cpu())
            for name in self.vectors:
                states = getattr(found, name)
                states = states if name == "hidden" else states.transpose(2, 3).flatten(3)
                parts[name].append(self._stored(states)[:, batch.mask].cpu())
            first += len(own)
            tell(first)
        return {name: torch.cat(found, dim=0 if name == "logits" else 1) for name, found in parts.items()}

    def _stored(self, states: Tensor) -> Tensor:
        """Return numbers in 16 bits."""
        stored = self.arithmetic.stored
        if stored is torch.float16:  # bf16 reaches as far as float32
            states = states.float().clamp(torch.finfo(stored).min, torch.finfo(stored).max)
        return states.to(stored)


def _name(shard: int) -> str:
    return f"{shard:05d}.safetensors"


def _fingerprint(encoded: Encoded) -> str:
    """Return a hash of token ids and token types."""
    digest = hashlib.sha256(encoded.lengths().tobytes())
    for arrays in (encoded.ids, encoded.types or []):
        digest.update(b"," + b"".join(array.tobytes() for array in arrays))
    return digest.hexdigest()
