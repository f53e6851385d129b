"""The rows of every domain as token ids, and this process's part of a step as padded batches of similar length."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hrkd_cli.choices import ClassWeights
from hrkd_cli.data.dataset import Dataset, TextRows
from hrkd_cli.method import MASKED_LOGIT, Labels
from hrkd_cli.models.encoding import Batch, Encoder, lengths_of, to_device
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.predict.tokenization import TokenizedExample
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.process_group import ProcessGroup

Rows = Mapping[str, Sequence[int]]  # row numbers of a step by domain
RowRef = tuple[str, int]  # domain, row

# What a second pass through the model must save on a CPU to be worth its own costs (docs/performance.md).
SPARED_TOKENS = 128.0
SPARED_SHARE = 0.1


@dataclass(frozen=True)
class EncodedSplit:
    """A split as token ids, with its labels.

    Attributes:
        encoder: made the token ids, and pads them.
        encoded: token ids by domain, in the order of all tensors.
        labels: of each domain's first rows, numbers among the domain's labels; the rows after them have none.
    """

    encoder: Encoder
    encoded: dict[str, list[TokenizedExample]]
    labels: dict[str, np.ndarray]

    @cached_property
    def lengths(self) -> dict[str, np.ndarray]:
        """Tokens of each row by domain."""
        return {domain: lengths_of(encoded) for domain, encoded in self.encoded.items()}

    @property
    def count(self) -> int:
        """Rows of all domains."""
        return sum(map(len, self.encoded.values()))

    @property
    def unlabeled(self) -> dict[str, int]:
        """Rows without a label by domain, where there are some."""
        counts = {domain: len(own) - len(self.labels[domain]) for domain, own in self.encoded.items()}
        return {domain: count for domain, count in counts.items() if count}

    def class_weights(self, heads: DomainHeads, choice: ClassWeights) -> Tensor | None:
        """Return (D, C) class weights, rows / (classes x rows of the class); None where all count the same."""
        if choice is ClassWeights.NONE:
            return None
        weights = []
        for domain, names in heads.labels.items():
            counts = np.bincount(self.labels[domain], minlength=len(names)).clip(min=1)
            weights.append(torch.tensor(counts.sum() / (len(names) * counts), dtype=torch.float32))
        return torch.nn.utils.rnn.pad_sequence(weights, batch_first=True, padding_value=1.0)


def encode_split(
    dataset: Dataset, split: str, encoder: Encoder, unlabeled: Mapping[str, TextRows] | None = None
) -> EncodedSplit:
    """Encode one split of every domain that has it, and after its rows the domain's ``unlabeled`` ones."""
    encoded, labels = {}, {}
    for domain, names in dataset.labels.items():
        rows = dataset.split(domain, split)
        if len(rows):
            encoded[domain] = encoder.encode(rows)
            labels[domain] = np.array([names.index(label) for label in rows.labels], dtype=np.int64)
            if unlabeled and domain in unlabeled:
                encoded[domain] += encoder.encode(unlabeled[domain])
    return EncodedSplit(encoder, encoded, labels)


@dataclass(frozen=True, slots=True)
class TrainBatch:
    """R rows of a step on the device.

    Attributes:
        tokens: inputs of the trained model.
        domains: (R,), each row's domain by number.
        labels: see Labels.
    """

    tokens: Batch
    domains: Tensor
    labels: Labels


class Collate:
    """Makes batches of rows.

    Args:
        rows: what is learned from.
        context: see TrainContext.
        pad_to: tokens that all rows are padded to; None for the longest row of each batch.
        label_weights: of each labelled row by domain, in the mean of the label loss; None where all count the same.
    """

    def __init__(
        self,
        rows: EncodedSplit,
        context: TrainContext,
        *,
        pad_to: int | None = None,
        label_weights: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self.rows, self.context, self.pad_to = rows, context, pad_to
        self.domains = list(rows.encoded)
        self._targets, self._label_weights = {}, {}
        for domain, labels in rows.labels.items():
            weights = np.ones(len(labels)) if label_weights is None else label_weights[domain]
            without = (0, len(rows.encoded[domain]) - len(labels))
            self._targets[domain], self._label_weights[domain] = np.pad(labels, without), np.pad(weights, without)

    def __call__(self, rows: Rows) -> list[Any]:
        """Return this process's part of a step, in batches of rows of similar length."""
        refs = local_rows(rows, self.context.processes)
        pieces = length_buckets(refs, self.rows.lengths, self.context.device) if self.pad_to is None else [refs]
        return [self.batch(rows, piece) for piece in pieces]

    def batch(self, rows: Rows, refs: Sequence[RowRef]) -> TrainBatch:
        """Return rows of a step as one batch; their weights depend on all rows of the step."""
        encoded = [self.rows.encoded[domain][row] for domain, row in refs]
        tokens = self.rows.encoder.collate(encoded, self.context.device, pad_to=self.pad_to)
        weights = self._label_weights
        sums = {domain: weights[domain][list(chosen)].sum() or 1.0 for domain, chosen in rows.items()}
        targets = np.array([self._targets[domain][row] for domain, row in refs])
        shares = np.array([weights[domain][row] / sums[domain] for domain, row in refs], dtype=np.float32)
        domains = np.array([self.domains.index(domain) for domain, _ in refs])
        return TrainBatch(tokens, self.put(domains), Labels(self.put(targets), self.put(shares)))

    def put(self, array: np.ndarray) -> Tensor:
        """Move an array to the run's device."""
        return to_device(torch.from_numpy(array), self.context.device)


def local_rows(rows: Rows, processes: ProcessGroup) -> list[RowRef]:
    """Return this process's part of a step's rows, domain after domain."""
    return processes.shard((domain, row) for domain, chosen in rows.items() for row in chosen)


def length_buckets(
    refs: Sequence[RowRef], lengths: Mapping[str, np.ndarray], device: torch.device
) -> list[list[RowRef]]:
    """Split a step's rows into short and long ones where that spares enough padding, and these again.

    On a CPU only: on a GPU, where a small product takes as long as a large one, they stay together. ``lengths`` are
    tokens of each row by domain. The rows of a piece keep their order: those of a domain, and of its teacher, together.
    """
    if device.type != "cpu":
        return [list(refs)]
    own = np.array([lengths[domain][row] for domain, row in refs])
    return [[refs[n] for n in np.sort(numbers)] for numbers in _split(own, np.argsort(own, kind="stable"))]


def _split(lengths: np.ndarray, order: np.ndarray) -> list[np.ndarray]:
    """Split row numbers, sorted by length, where it spares most padding, as long as it is worth it."""
    sizes, longest = np.arange(1, len(order)), lengths[order[-1]]
    spared = sizes * (longest - lengths[order[:-1]])
    whole = len(order) * longest
    if not len(spared) or spared.max() < max(SPARED_TOKENS, SPARED_SHARE * whole):
        return [order]
    short = int(spared.argmax()) + 1
    return _split(lengths, order[:short]) + _split(lengths, order[short:])


def hold_back(labels: np.ndarray, share: float, seed: str) -> list[int]:
    """Choose rows to hold back: this share, spread over the labels as they are, never the last of a label."""
    draw = random.Random(seed)
    names, sizes = np.unique(labels, return_counts=True)
    wanted = max(1, round(share * len(labels)))
    exact = sizes * (wanted / len(labels))
    counts = np.minimum(np.floor(exact).astype(int), sizes - 1)
    # What is left goes to the labels that were rounded off most, as long as they keep a row.
    for place in np.argsort(np.floor(exact) - exact, kind="stable"):
        counts[place] += int(counts.sum() < wanted and counts[place] < sizes[place] - 1)
    chosen = zip(names, counts.tolist(), strict=True)
    return sorted(row for name, count in chosen for row in draw.sample(np.flatnonzero(labels == name).tolist(), count))


class LabelGather:
    """Takes the logits of each row's own labels out of all outputs, in one operation."""

    def __init__(self, heads: DomainHeads, device: torch.device) -> None:
        columns = [torch.tensor(heads.columns[domain]) for domain in heads.domains]
        table = torch.nn.utils.rnn.pad_sequence(columns, batch_first=True, padding_value=-1)
        absent = table < 0
        self.absent = absent.to(device) if bool(absent.any()) else None
        self.table = table.clamp_min(0).to(device)  # (D, C)
        self.classes = table.shape[1]

    def take(self, logits: Tensor, domains: Tensor) -> Tensor:
        """Return (R, C) of (R, outputs): row r of domain ``domains[r]``; MASKED_LOGIT where it has fewer than C."""
        own = logits.gather(1, self.table[domains])
        return own if self.absent is None else own.masked_fill(self.absent[domains], MASKED_LOGIT)
