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
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hrkd_cli.choices import CacheTeacher
from hrkd_cli.distillation.teachers import BATCH_TOKENS, OnlineTeacher, batches_of
from hrkd_cli.errors import OutputError
from hrkd_cli.events import Note, Progress
from hrkd_cli.method import Outputs
from hrkd_cli.models.encoding import Batch, lengths_of, to_device
from hrkd_cli.models.model_folder import model_fingerprint
from hrkd_cli.predict.tokenization import TokenizedExample
from hrkd_cli.training.checkpoint import Checkpointer
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.rows import RowRef

FORMAT = 4
SHARD_BYTES = 1 << 27
LIMIT = 50 * 10**9  # bytes that auto keeps at most
SPARE = 10**9  # bytes of the disk that are left to others
_KEY = re.compile(r"[0-9a-f]{16}")


def with_cache(
    online: OnlineTeacher, setting: CacheTeacher, *, root: Path, passes: float, run: Checkpointer, context: TrainContext
) -> TeacherOutputs:
    """Return a cache of a teacher's outputs, built now, or the teacher itself where there is to be none.

    Args:
        online: runs the teachers.
        setting: of ``--cache-teacher``.
        root: folder of all caches.
        passes: times that the run reads each row, on average.
        run: remembers whether there is a cache, for when it is resumed.
        context: see TrainContext.

    Raises:
        OutputError: the cache must be used, and the disk has no room for it.
    """
    before = run.decisions.get("cached")
    if setting is CacheTeacher.OFF or online.pad_to is not None or before is False:
        return online
    must = setting is CacheTeacher.ON or before is True
    cache = CachedTeacher(root, online, context)
    problem = None
    if not must and context.device.type != "cpu":
        problem = "on a GPU that is no slower than reading them"
    elif not must and passes <= 1:
        problem = "most rows are read only once"
    elif not must and cache.bytes > LIMIT:
        problem = f"they take {cache.bytes / 1e9:.0f} GB, more than the {LIMIT / 1e9:.0f} GB that auto keeps"
    with contextlib.ExitStack() as stack:
        if problem is None and context.processes.is_main:  # one process looks at the disk, for all
            stack.enter_context(cache.lock())
            problem = cache.make_room()
        run.decisions["cached"] = not context.processes.any(problem is not None)
        if run.decisions["cached"]:
            computed = cache.build()
            what = f"computed once and kept in {root} ({cache.bytes / 1e9:.2f} GB)"
            context.on_event(Note(f"teacher outputs: {what if computed else f'read from {cache.folder}'}"))
            return cache
    if must:
        raise OutputError(f"--cache-teacher on: {problem}; free some space or use --cache-teacher off")
    context.on_event(Note(f"teacher outputs: computed on every batch ({problem})"))
    return online


class CachedTeacher:
    """Computes and reads the outputs of an online teacher, in a folder of ``root``; they take ``bytes`` bytes."""

    def __init__(self, root: Path, online: OnlineTeacher, context: TrainContext) -> None:
        self.root = root
        self.online = online
        self.context = context
        self.config = online.teachers.root.config
        layers = len(online.layers)
        self.vectors = {"hidden": layers + 1} if layers else {}  # of H numbers for each token
        self.vectors |= dict.fromkeys(("queries", "keys"), layers) if online.attention else {}
        self.lengths = online.rows.lengths
        self.shards: list[tuple[str, np.ndarray]] = []  # domain and row numbers
        # For each row its shard, its number there, and its first and last + 1 token there.
        self.places = {domain: np.zeros((len(own), 4), dtype=np.int64) for domain, own in self.lengths.items()}
        self.tensors: list[dict[str, Tensor]] = []  # of each shard, once built
        per_token = 2 * sum(self.vectors.values()) * self.config.hidden_size
        self.bytes = 0
        for domain, lengths in self.lengths.items():
            self.bytes += int(lengths.sum()) * per_token + len(lengths) * 4 * online.columns.classes
            for rows in batches_of(lengths, SHARD_BYTES // max(1, per_token)):
                last, inside = np.cumsum(lengths[rows]), np.arange(len(rows))
                columns = (np.full_like(rows, len(self.shards)), inside, last - lengths[rows], last)
                self.places[domain][rows] = np.stack(columns, axis=1)
                self.shards.append((domain, rows))

    @cached_property
    def folder(self) -> Path:
        """Where the outputs are; finding out reads the teachers' weights."""
        online, teachers = self.online, self.online.teachers
        prints = {folder: model_fingerprint(folder) for folder in set(teachers.folders.values())}
        key = {
            "format": FORMAT,
            "teachers": {domain: prints[teachers.folders[domain]] for domain in online.domains},
            "texts": {domain: _fingerprint(online.rows.encoded[domain]) for domain in online.domains},
            "labels": {domain: list(teachers.heads.labels[domain]) for domain in online.domains},
            "layers": list(online.layers),
            "attention": online.attention,
            "precision": str(self.context.precision.mode),
            "device": self.context.device.type,
        }
        return self.root / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Let no other run work in the folder of all caches, and wait for one that does."""
        self.root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.root / ".lock")
        try:
            held = lock.acquire(timeout=0)
        except Timeout:
            self.context.on_event(Note("teacher outputs: another run is computing some; waiting for it"))
            held = lock.acquire()
        with held:
            yield

    def make_room(self) -> str | None:
        """Remove the outputs of other keys; return what is wrong where the disk cannot hold these all the same.

        A run that reads what is removed has it mapped into memory, and goes on.
        """
        for other in self.root.iterdir():
            if other != self.folder and _KEY.fullmatch(other.name):
                shutil.rmtree(other, ignore_errors=True)
        there = sum(file.stat().st_size for file in self.folder.glob("[0-9]*.safetensors"))
        missing, free = (self.bytes - there) / 1e9, max(0, shutil.disk_usage(self.root).free - SPARE) / 1e9
        if missing > free:
            return f"the teacher's outputs take {missing:.2f} GB, and the disk has {free:.2f} GB to spare"
        return None

    def build(self) -> int:
        """Compute what is missing or damaged, each process its part; return the rows that had to be computed.

        Raises:
            OSError, SafetensorError: the disk is full, or cannot be written.
        """
        processes = self.context.processes
        self.folder.mkdir(parents=True, exist_ok=True)
        missing = [n for n in range(len(self.shards)) if self._read(n) is None]
        processes.barrier()  # all have looked before any writes
        self.done, self.total = 0, sum(len(self.shards[n][1]) for n in missing)
        for number in processes.shard(missing):
            self._write(number, self._compute(*self.shards[number]))
        processes.barrier()
        self.tensors = [load_file(self._file(number)) for number in range(len(self.shards))]
        processes.barrier()  # before another run may remove them
        return self.total

    @torch.no_grad()
    def _compute(self, domain: str, rows: np.ndarray) -> dict[str, Tensor]:
        """Run the teacher on a shard's rows, in batches that depend on nothing else; return what is kept."""
        online, precision = self.online, self.context.precision
        parts: dict[str, list[Tensor]] = {name: [] for name in (*self.vectors, "logits")}
        for part in batches_of(self.lengths[domain][rows], BATCH_TOKENS[precision.device.type]):
            own = rows[part].tolist()
            batch = online.rows.encoder.collate([online.rows.encoded[domain][row] for row in own], precision.device)
            outputs = online.load([(domain, row) for row in own], batch)
            with precision.autocast():
                found = outputs()
            parts["logits"].append(found.logits.float().cpu())
            for name in self.vectors:
                heads = getattr(found, name)
                states = heads if name == "hidden" else heads.transpose(2, 3).flatten(3)
                parts[name].append(_in_16_bits(states, precision.storage_dtype)[:, batch.mask].cpu())
            self.done += len(own)
            done = min(self.total, self.done * self.context.processes.size)
            self.context.on_event(Progress("teacher outputs", done, self.total))
        return {name: torch.cat(found, dim=0 if name == "logits" else 1) for name, found in parts.items()}

    def load(self, refs: Sequence[RowRef], batch: Batch) -> Callable[[], Outputs]:
        """See OnlineTeacher; padding is 0."""
        del batch  # the outputs have the same rows, padded to the same length
        device, stored = self.context.device, self.context.precision.storage_dtype
        places = np.stack([self.places[domain][row] for domain, row in refs])
        longest = int((places[:, 3] - places[:, 2]).max())
        padded = {
            name: torch.empty((count, len(refs), longest, self.config.hidden_size), dtype=stored)
            for name, count in self.vectors.items()
        }
        for row, (shard, _, first, last) in enumerate(places.tolist()):
            for name, out in padded.items():
                out[:, row, : last - first] = self.tensors[shard][name][:, first:last]
                out[:, row, last - first :] = 0
        logits = torch.stack([self.tensors[shard]["logits"][inside] for shard, inside in places[:, :2].tolist()])
        states = {name: to_device(t, device) for name, t in padded.items()}
        heads = self.config.num_attention_heads
        queries, keys = (
            states[name].view(*states[name].shape[:3], heads, -1).transpose(2, 3) if name in states else None
            for name in ("queries", "keys")
        )
        outputs = Outputs(states.get("hidden"), queries, keys, to_device(logits, device))
        return lambda: outputs

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:05d}.safetensors"

    def _read(self, number: int) -> dict[str, Tensor] | None:
        """Return a shard's tensors, mapped into memory; None when it is missing or not whole."""
        try:
            tensors: dict[str, Tensor] = load_file(self._file(number))  # compares the file's length with its header
        except (OSError, SafetensorError):
            return None
        return tensors

    def _write(self, number: int, tensors: dict[str, Tensor]) -> None:
        """Write a shard, whole or not at all."""
        target = self._file(number)
        unfinished = target.with_name(f".{target.name}")
        try:
            save_file(tensors, unfinished)
            with unfinished.open("rb+") as file:
                os.fsync(file.fileno())
            unfinished.replace(target)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise


TeacherOutputs = OnlineTeacher | CachedTeacher


def _in_16_bits(states: Tensor, stored: torch.dtype) -> Tensor:
    if stored is torch.float16:  # bf16 reaches as far as float32
        states = states.float().clamp(torch.finfo(stored).min, torch.finfo(stored).max)
    return states.to(stored)


def _fingerprint(encoded: Sequence[TokenizedExample]) -> str:
    """Return a hash of token ids and token types."""
    digest = hashlib.sha256(lengths_of(encoded).tobytes())
    for name in ("ids", "type_ids"):
        digest.update(b"," + b"".join(getattr(one, name).tobytes() for one in encoded))
    return digest.hexdigest()
