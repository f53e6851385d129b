"""From the row numbers of a step to padded batches: the student's inputs, the teacher's part, mean weights, labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hrkd_cli.distillation.teacher_outputs import TeacherOutputs
from hrkd_cli.method import Labels, MeanWeights, Outputs
from hrkd_cli.models.encoding import Batch, Encoded, Encoder, to_device
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.loop import Rows
from hrkd_cli.training.rows import Pick, picks_of, pieces_of


@dataclass(frozen=True, slots=True)
class DistillBatch:
    """R rows of a step on the device.

    Attributes:
        student: the student's inputs.
        teacher: gives the teacher's outputs; None where no loss needs them.
        domains: (R,), each row's domain by number.
        weights: see MeanWeights.
        labels: None where no row has a label.
    """

    student: Batch
    teacher: Callable[[], Outputs] | None
    domains: Tensor
    weights: MeanWeights
    labels: Labels | None


class Collate:
    """Makes batches of rows.

    Args:
        teacher: gives the teacher's part; None where no loss needs it.
        rows: what is learned from as the student sees it: (encoder, token ids by domain, in the order of all tensors).
        context: see TrainContext.
        labels: of each domain's first rows; the others have none.
        pad_to: tokens that all rows are padded to where means run over padding too (released code).

    Attributes:
        instance_weights: of every row by domain, in the means of the losses against the teacher; None for no weights.
    """

    def __init__(
        self,
        teacher: TeacherOutputs | None,
        rows: tuple[Encoder, Mapping[str, Encoded]],
        context: TrainContext,
        *,
        labels: Mapping[str, np.ndarray] | None = None,
        pad_to: int | None = None,
    ) -> None:
        self.teacher = teacher
        self.encoder, self.encoded = rows
        self.context = context
        self.labels = labels or {}
        self.instance_weights: Mapping[str, np.ndarray] | None = None
        self.pad_to = pad_to
        self.domains = list(self.encoded)
        self.lengths = {domain: encoded.lengths() for domain, encoded in self.encoded.items()}

    def __call__(self, rows: Rows) -> list[DistillBatch]:
        """Return this process's part of a step, in pieces of similar length."""
        picks = picks_of(rows, self.context.processes)
        pieces = pieces_of(picks, self.lengths, self.context.device) if self.pad_to is None else [picks]
        return [self.batch(rows, piece) for piece in pieces]

    def batch(self, rows: Rows, picks: Sequence[Pick], *, teacher: bool = True) -> DistillBatch:
        """Return the picks as one batch; mean weights depend on all rows of the step. ``teacher``: with its part?"""
        encoded = [(self.encoded[domain], row) for domain, row in picks]
        batch = self.encoder.collate_rows(encoded, self.context.device, pad_to=self.pad_to)
        return DistillBatch(
            batch,
            self.teacher.load(picks, batch) if teacher and self.teacher is not None else None,
            self._put(np.array([self.domains.index(domain) for domain, _ in picks])),
            self.mean_weights(rows, picks),
            self._labels_of(rows, picks) if self.labels else None,
        )

    def mean_weights(self, rows: Rows, picks: Sequence[Pick]) -> MeanWeights:
        """Return the weights of the picks in the means of the whole step.

        With instance weights the means of a domain are weighted ones, ``sum_i w_i x_i / sum_i w_i``, where what x_i is
        the mean of (a row, its tokens, their pairs) counts in both sums.
        """
        weights, pad_to = self.instance_weights, self.pad_to
        # Sums over the rows of each domain: of weights, and of weights times tokens and times query-key pairs.
        sums = {}
        for domain, chosen in rows.items():
            own = np.ones(len(chosen)) if weights is None else weights[domain][list(chosen)]
            tokens = self.lengths[domain][list(chosen)].astype(np.float64)
            if pad_to is not None:
                tokens[:] = pad_to
            sums[domain] = np.array([own.sum(), (own * tokens).sum(), (own * np.square(tokens)).sum()])
        factor = np.array([1.0 if weights is None else weights[domain][row] for domain, row in picks])
        per_row, per_token, per_pair = factor / np.stack([sums[domain] for domain, _ in picks], axis=1)
        lengths = np.array([self.lengths[domain][row] for domain, row in picks])
        valid = np.arange(pad_to or int(lengths.max())) < lengths[:, None]  # (R, T)
        keys = None if valid.all() else self._put(valid)
        counted = valid if pad_to is None else np.ones_like(valid)
        one_hot = np.array([[domain == other for other, _ in picks] for domain in self.domains])
        return MeanWeights(
            domains=self._put(one_hot.astype(np.float32)),
            rows=self._put(per_row.astype(np.float32)),
            tokens=self._put((counted * per_token[:, None]).astype(np.float32)),
            pairs=self._put(per_pair.astype(np.float32)),
            queries=keys if pad_to is None else None,
            keys=keys,
        )

    def _labels_of(self, rows: Rows, picks: Sequence[Pick]) -> Labels:
        """Return the labels of the picks, and their weights in the label losses of the whole step."""
        known = {domain: sum(row < len(self.labels[domain]) for row in chosen) for domain, chosen in rows.items()}
        found = [
            (self.labels[domain][row], 1 / known[domain]) if row < len(self.labels[domain]) else (0, 0.0)
            for domain, row in picks
        ]
        targets, weights = zip(*found, strict=True)
        return Labels(self._put(np.array(targets, dtype=np.int64)), self._put(np.array(weights, dtype=np.float32)))

    def _put(self, array: np.ndarray) -> Tensor:
        return to_device(torch.from_numpy(array), self.context.device)
