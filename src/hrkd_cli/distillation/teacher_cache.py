"""Teacher outputs on the train split, computed once and stored on disk for all epochs and later runs.

They are stored in ``teacher-cache/KEY`` next to the output folder, where KEY is a hash of everything that they depend
on. A shard (one safetensors file) has R rows of one domain, of similar length, with N tokens in total and no padding:

    hidden   (L+1, N, H)  embedding output and matched layers, 16-bit; absent if no layers are compared
    queries  (L, N, A d)  divided by sqrt(d), 16-bit; absent without the attention loss
    keys     (L, N, A d)  16-bit; absent without the attention loss
    logits   (R, C)       logits of the row's domain, float32
    domain_logits (R, D)  logits of the domains, float32; absent if no loss compares them
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import mmap
import os
import re
import shutil
import sys
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
from hrkd_cli.distillation.online_teacher import OnlineTeacher, batches_by_length, inference_batches
from hrkd_cli.errors import OutputError
from hrkd_cli.events import Note, Progress
from hrkd_cli.formatting import byte_size
from hrkd_cli.method import Outputs
from hrkd_cli.models.device import to_device
from hrkd_cli.models.fingerprint import model_fingerprint
from hrkd_cli.models.model_tokenizer import TokenBatch, token_counts
from hrkd_cli.outputs import apply_umask
from hrkd_cli.predict.tokenization import TokenizedExample
from hrkd_cli.training.checkpoint import Checkpointer
from hrkd_cli.training.collator import RowRef
from hrkd_cli.training.context import TrainContext

FORMAT = 4
SHARD_BYTES = 1 << 27
AUTO_MAX_BYTES = 50 * 10**9  # largest cache with --cache-teacher auto
RESERVED_BYTES = 10**9  # disk space to leave free
_KEY_PATTERN = re.compile(r"[0-9a-f]{16}")


def cached_or_online(
    online: OnlineTeacher,
    setting: CacheTeacher,
    *,
    root: Path,
    reads_per_row: float,
    checkpointer: Checkpointer,
    context: TrainContext,
) -> Teacher:
    """Return a cache of the teacher's outputs, built if necessary, or the online teacher if a cache is not worth it.

    ``root`` is the folder of all caches, ``reads_per_row`` how often the run reads each row on average. A resumed run
    keeps the decision that ``checkpointer`` has recorded.

    Raises:
        OutputError: a cache is required, and the disk has no space for it.
    """
    decided = checkpointer.decisions.get("cached")
    if setting is CacheTeacher.OFF or online.pad_to is not None or decided is False:
        return online
    required = setting is CacheTeacher.ON or decided is True
    cache = CachedTeacher(root, online, context)
    problem = None if required else _reason_not_to_cache(cache, reads_per_row)
    with contextlib.ExitStack() as stack:
        if problem is None and context.processes.is_main:  # checks the disk for all processes
            stack.enter_context(cache.lock())
            cache.remove_others()
            problem = cache.disk_space_problem()
        checkpointer.decisions["cached"] = not context.processes.any(problem is not None)
        if checkpointer.decisions["cached"]:
            if cache.build():
                text = f"computed once and stored in {root} ({byte_size(cache.bytes)})"
            else:
                text = f"read from {cache.folder}"
            context.on_event(Note(f"teacher outputs: {text}"))
            return cache
    if required:
        remedy = "free some space" if decided else "free some space or use --cache-teacher off"
        raise OutputError(f"{problem}; {remedy}")
    context.on_event(Note(f"teacher outputs: computed in every step ({problem})"))
    return online


def _reason_not_to_cache(cache: CachedTeacher, reads_per_row: float) -> str | None:
    """Return why ``--cache-teacher auto`` does not build a cache; None if it does."""
    if cache.context.device.type != "cpu":
        return "on a GPU this is no slower than reading them"
    if reads_per_row <= 1:
        return "most rows are read only once"
    if cache.bytes > AUTO_MAX_BYTES:
        return f"they need {cache.bytes / 1e9:.0f} GB, more than auto's limit of {AUTO_MAX_BYTES / 1e9:.0f} GB"
    return None


class CachedTeacher:
    """Stores the outputs of an online teacher, ``bytes`` in all, in a subfolder of ``root`` and reads them back."""

    def __init__(self, root: Path, online: OnlineTeacher, context: TrainContext) -> None:
        self.root = root
        self.online = online
        self.context = context
        self.config = online.teachers.primary.config
        layers = len(online.layers)
        self.num_layers = {"hidden": layers + 1} if layers else {}  # of each kind of states
        self.num_layers |= dict.fromkeys(("queries", "keys"), layers) if online.attention else {}
        self.row_widths = {"logits": online.label_gather.classes}  # of tensors with a number of values per row
        self.row_widths |= {"domain_logits": len(online.domains)} if online.domain_posterior else {}
        self.lengths = online.split.lengths
        self.shards: list[tuple[str, np.ndarray]] = []  # domain and row indices
        # By domain, (rows, 4): each row's shard, its index there, and the start and end of its tokens there.
        self.locations = {domain: np.zeros((len(own), 4), dtype=np.int64) for domain, own in self.lengths.items()}
        self.tensors: list[dict[str, Tensor]] = []  # by shard, once built
        per_token = 2 * sum(self.num_layers.values()) * self.config.hidden_size
        self.bytes = 0
        for domain, lengths in self.lengths.items():
            self.bytes += int(lengths.sum()) * per_token + len(lengths) * 4 * sum(self.row_widths.values())
            for rows in batches_by_length(lengths, SHARD_BYTES // max(1, per_token)):
                ends = np.cumsum(lengths[rows])
                columns = (np.full_like(rows, len(self.shards)), np.arange(len(rows)), ends - lengths[rows], ends)
                self.locations[domain][rows] = np.stack(columns, axis=1)
                self.shards.append((domain, rows))

    @cached_property
    def folder(self) -> Path:
        """Folder of the shards. Its name depends on the teachers' weights, which are read on first access."""
        online, teachers = self.online, self.online.teachers
        fingerprints = {folder: model_fingerprint(folder) for folder in set(teachers.folders.values())}
        key = {
            "format": FORMAT,
            "teachers": {domain: fingerprints[teachers.folders[domain]] for domain in online.domains},
            "texts": {domain: _fingerprint(online.split.examples[domain]) for domain in online.domains},
            "labels": {domain: list(teachers.heads.labels[domain]) for domain in online.domains},
            "layers": list(online.layers),
            "attention": online.attention,
            "domain_posterior": online.domain_posterior,
            "precision": str(self.context.precision.mode),
            "device": self.context.device.type,
        }
        return self.root / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the folder of all caches; wait if another run has locked it."""
        self.root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.root / ".lock")
        try:
            acquired = lock.acquire(timeout=0)
        except Timeout:
            self.context.on_event(Note("teacher outputs: waiting for another run that is computing its own"))
            acquired = lock.acquire()
        with acquired:
            yield

    def remove_others(self) -> None:
        """Remove caches with other keys. A run that reads one is not affected, because it has mapped the files."""
        for other in self.root.iterdir():
            if other != self.folder and _KEY_PATTERN.fullmatch(other.name):
                shutil.rmtree(other, ignore_errors=True)

    def disk_space_problem(self) -> str | None:
        """Return an error message if the disk has no space for the shards that are still missing."""
        existing = sum(file.stat().st_size for file in self.folder.glob("[0-9]*.safetensors"))
        needed = (self.bytes - existing) / 1e9
        available = max(0, shutil.disk_usage(self.root).free - RESERVED_BYTES) / 1e9
        if needed > available:
            return f"the teacher outputs need {needed:.2f} GB, but the disk has only {available:.2f} GB to spare"
        return None

    def build(self) -> int:
        """Compute missing and damaged shards, distributed over the processes; return the number of rows computed.

        Raises:
            OSError, SafetensorError: the disk is full or cannot be written.
        """
        processes = self.context.processes
        self.folder.mkdir(parents=True, exist_ok=True)
        missing = [n for n in range(len(self.shards)) if not self._is_whole(n)]
        processes.barrier()  # all have checked before any writes
        self.done, self.total = 0, sum(len(self.shards[n][1]) for n in missing)
        for number in processes.shard(missing):
            self._write(number, self._compute(*self.shards[number]))
        processes.barrier()
        self.tensors = [load_file(self._file(number)) for number in range(len(self.shards))]
        processes.barrier()  # all have mapped the files before another run may remove them
        return self.total

    @torch.no_grad()
    def _compute(self, domain: str, rows: np.ndarray) -> dict[str, Tensor]:
        """Run the teacher on the rows of a shard, in batches that depend only on the shard; return its tensors."""
        online, precision = self.online, self.context.precision
        parts: dict[str, list[Tensor]] = {name: [] for name in (*self.num_layers, *self.row_widths)}
        for indices in inference_batches(self.lengths[domain][rows], precision.device):
            batch_rows = rows[indices].tolist()
            examples = [online.split.examples[domain][row] for row in batch_rows]
            batch = online.split.tokenizer.collate(examples, precision.device)
            run_teacher = online.load([(domain, row) for row in batch_rows], batch)
            with precision.autocast():
                outputs = run_teacher()
            for name in self.row_widths:
                parts[name].append(getattr(outputs, name).float().cpu())
            for name in self.num_layers:
                states = getattr(outputs, name)
                if name != "hidden":
                    states = states.transpose(2, 3).flatten(3)  # (L, R, A, T, d) to (L, R, T, A d)
                parts[name].append(_to_16_bit(states, precision.storage_dtype)[:, batch.mask].cpu())
            self.done += len(batch_rows)
            done = min(self.total, self.done * self.context.processes.size)
            self.context.on_event(Progress("teacher outputs", done, self.total))
        return {name: torch.cat(tensors, dim=0 if name in self.row_widths else 1) for name, tensors in parts.items()}

    def load(self, refs: Sequence[RowRef], batch: TokenBatch) -> Callable[[], Outputs]:
        """Read the outputs of some rows, with 0 at padding; return a function that returns them."""
        device, dtype = self.context.device, self.context.precision.storage_dtype
        locations = np.stack([self.locations[domain][row] for domain, row in refs])
        padded = {
            name: torch.empty((layers, *batch.mask.shape, self.config.hidden_size), dtype=dtype)
            for name, layers in self.num_layers.items()
        }
        for row, (shard, _, start, end) in enumerate(locations.tolist()):
            for name, out in padded.items():
                out[:, row, : end - start] = self.tensors[shard][name][:, start:end]
                out[:, row, end - start :] = 0
        for shard in set(locations[:, 0].tolist()):
            for name in padded:
                _unmap_pages(self.tensors[shard][name])
        rows = locations[:, :2].tolist()
        stacked = {name: torch.stack([self.tensors[n][name][i] for n, i in rows]) for name in self.row_widths}
        by_row = {name: to_device(t, device) for name, t in stacked.items()}
        states = {name: to_device(t, device) for name, t in padded.items()}
        heads = self.config.num_attention_heads
        queries, keys = (
            states[name].view(*states[name].shape[:3], heads, -1).transpose(2, 3) if name in states else None
            for name in ("queries", "keys")
        )
        outputs = Outputs(states.get("hidden"), queries, keys, **by_row)
        return lambda: outputs

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:05d}.safetensors"

    def _is_whole(self, number: int) -> bool:
        """Return whether a shard exists and can be opened, which compares the file's length with its header."""
        try:
            load_file(self._file(number))
        except (OSError, SafetensorError):
            return False
        return True

    def _write(self, number: int, tensors: dict[str, Tensor]) -> None:
        """Write a shard atomically."""
        target = self._file(number)
        unfinished = target.with_name(f".{target.name}")
        try:
            save_file(tensors, unfinished)
            apply_umask([unfinished])
            with unfinished.open("rb+") as file:
                os.fsync(file.fileno())
            unfinished.replace(target)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise


Teacher = OnlineTeacher | CachedTeacher


def _unmap_pages(tensor: Tensor) -> None:
    """Take the pages of a mapped tensor out of this process; the system still caches them, and reading maps them again.

    Otherwise the process would grow by the size of the cache.
    """
    start, end = -(-tensor.data_ptr() // mmap.PAGESIZE), (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE
    # Elsewhere, safetensors may have changed the pages (the order of their bytes), or the call does something else.
    if sys.platform == "linux" and sys.byteorder == "little" and start < end:
        address, size = ctypes.c_void_p(start * mmap.PAGESIZE), ctypes.c_size_t((end - start) * mmap.PAGESIZE)
        ctypes.CDLL(None).madvise(address, size, mmap.MADV_DONTNEED)


def _to_16_bit(states: Tensor, dtype: torch.dtype) -> Tensor:
    if dtype is torch.float16:  # bf16 has the range of float32
        states = states.float().clamp(torch.finfo(dtype).min, torch.finfo(dtype).max)
    return states.to(dtype)


def _fingerprint(examples: Sequence[TokenizedExample]) -> str:
    """Return a hash of token ids and token types."""
    digest = hashlib.sha256(token_counts(examples).tobytes())
    for name in ("ids", "type_ids"):
        digest.update(b"," + b"".join(getattr(text, name).tobytes() for text in examples))
    return digest.hexdigest()
