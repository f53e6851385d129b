"""From the row indices of a step to padded batches on the device: sharding over processes, length buckets, labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hrkd_cli.method import Labels
from hrkd_cli.models.device import to_device
from hrkd_cli.models.model_tokenizer import TokenBatch
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.process_group import ProcessGroup
from hrkd_cli.training.tokenized_split import TokenizedSplit

StepRows = Mapping[str, Sequence[int]]  # row indices of a step by domain
RowRef = tuple[str, int]  # domain, row index

# Padding that another length bucket must save on a CPU to be worth a forward pass (docs/ablations.md).
MIN_SAVED_TOKENS = 128.0
MIN_SAVED_FRACTION = 0.1
MAX_BUCKET_TOKENS = 1024  # padded tokens of a bucket on a CPU, which bound the memory of a step
LENGTH_STEP = 8  # lengths of batches on a CPU are multiples of it, because each new shape costs time and memory in bf16


@dataclass(frozen=True, slots=True)
class TrainBatch:
    """R rows of a step on the device.

    Attributes:
        tokens: inputs of the trained model.
        domains: (R,), index of each row's domain.
        labels: see Labels.
    """

    tokens: TokenBatch
    domains: Tensor
    labels: Labels


class Collator:
    """Makes batches from row indices.

    Args:
        pad_to: pad all rows to this many tokens; None pads to the longest row of each batch.
    """

    def __init__(self, split: TokenizedSplit, context: TrainContext, *, pad_to: int | None = None) -> None:
        self.split, self.context, self.pad_to = split, context, pad_to
        self.domains = list(split.examples)
        # Zeros for the unlabeled rows, which follow the labeled ones.
        self._targets = {d: np.pad(own, (0, len(split.examples[d]) - len(own))) for d, own in split.labels.items()}

    def __call__(self, rows: StepRows) -> list[Any]:
        """Return this process's part of a step, one batch per length bucket."""
        refs = local_rows(rows, self.context.processes)
        buckets = length_buckets(refs, self.split.lengths, self.context.device) if self.pad_to is None else [refs]
        return [self.batch(rows, bucket) for bucket in buckets]

    def batch(self, rows: StepRows, refs: Sequence[RowRef]) -> TrainBatch:
        """Return some rows of a step as one batch; labels are weighted over all rows of the step."""
        examples = [self.split.examples[domain][row] for domain, row in refs]
        pad_to = self.pad_to or self.padded_length(max(map(len, examples)))
        tokens = self.split.tokenizer.collate(examples, self.context.device, pad_to=pad_to)
        sizes = {domain: len(labels) for domain, labels in self.split.labels.items()}
        counts = {domain: sum(row < sizes[domain] for row in indices) for domain, indices in rows.items()}
        targets = np.array([self._targets[domain][row] for domain, row in refs])
        mean_weights = np.array([1 / counts[d] if row < sizes[d] else 0.0 for d, row in refs], dtype=np.float32)
        domains = np.array([self.domains.index(domain) for domain, _ in refs])
        return TrainBatch(
            tokens, self.to_device(domains), Labels(self.to_device(targets), self.to_device(mean_weights))
        )

    def padded_length(self, longest: int) -> int:
        """Return the length to which a batch is padded, given that of its longest row."""
        if self.context.device.type != "cpu":
            return longest
        return min(-(-longest // LENGTH_STEP) * LENGTH_STEP, self.split.tokenizer.max_length)

    def to_device(self, array: np.ndarray) -> Tensor:
        """Copy an array to the run's device."""
        return to_device(torch.from_numpy(array), self.context.device)


def local_rows(rows: StepRows, processes: ProcessGroup) -> list[RowRef]:
    """Return this process's part of a step's rows, domain by domain."""
    return processes.shard((domain, row) for domain, indices in rows.items() for row in indices)


def length_buckets(
    refs: Sequence[RowRef], lengths: Mapping[str, np.ndarray], device: torch.device
) -> list[list[RowRef]]:
    """Split rows recursively into buckets of similar length, as long as a split saves enough padding or memory.

    On a GPU there is one bucket, because small matrix products take as long as large ones. ``lengths`` are tokens of
    each row by domain. Within a bucket rows keep their order, so that rows of a domain stay together.
    """
    if device.type != "cpu":
        return [list(refs)]
    tokens = np.array([lengths[domain][row] for domain, row in refs])
    buckets = _split_by_length(tokens, np.argsort(tokens, kind="stable"))
    return [[refs[n] for n in np.sort(bucket)] for bucket in buckets]


def _split_by_length(lengths: np.ndarray, order: np.ndarray) -> list[np.ndarray]:
    """Split positions, sorted by length, where that saves most padding, until another split saves too little."""
    sizes, longest = np.arange(1, len(order)), lengths[order[-1]]
    saved = sizes * (longest - lengths[order[:-1]])  # by a split after the first n positions
    padded = len(order) * longest
    if not len(saved) or saved.max() < max(MIN_SAVED_TOKENS, MIN_SAVED_FRACTION * padded):
        return np.array_split(order, min(len(order), -(-padded // MAX_BUCKET_TOKENS)))
    split = int(saved.argmax()) + 1
    return _split_by_length(lengths, order[:split]) + _split_by_length(lengths, order[split:])
