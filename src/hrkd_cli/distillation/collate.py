"""From the row numbers of a step to padded batches: inputs, labels, the teacher's part, weights in all means."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hrkd_cli.distillation.teacher_cache import TeacherOutputs
from hrkd_cli.method import MeanWeights, Outputs
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.rows import Collate, EncodedSplit, RowRef, Rows, TrainBatch


@dataclass(frozen=True, slots=True)
class DistillBatch(TrainBatch):
    """R rows of a step on the device.

    Attributes:
        weights: see MeanWeights.
        teacher: gives the teacher's outputs; None where no loss needs them.
    """

    weights: MeanWeights
    teacher: Callable[[], Outputs] | None


class DistillCollate(Collate):
    """Makes batches of rows as the student sees them, with the teacher's part.

    Args:
        teacher: gives the teacher's part; None where no loss needs it.
        rows: what is learned from.
        context: see TrainContext.
        pad_to: tokens that all rows are padded to where means run over padding too (released code).

    Attributes:
        instance_weights: of every row by domain, in the means of the losses against the teacher; None for no weights.
    """

    def __init__(
        self, teacher: TeacherOutputs | None, rows: EncodedSplit, context: TrainContext, *, pad_to: int | None = None
    ) -> None:
        super().__init__(rows, context, pad_to=pad_to)
        self.teacher = teacher
        self.instance_weights: Mapping[str, np.ndarray] | None = None

    def batch(self, rows: Rows, refs: Sequence[RowRef], *, teacher: bool = True) -> DistillBatch:
        """Return rows of a step as one batch, with teacher outputs if ``teacher``.

        Mean weights depend on all rows of the step.
        """
        plain = super().batch(rows, refs)
        outputs = self.teacher.load(refs, plain.tokens) if teacher and self.teacher is not None else None
        return DistillBatch(plain.tokens, plain.domains, plain.labels, self.mean_weights(rows, refs), outputs)

    def mean_weights(self, rows: Rows, refs: Sequence[RowRef]) -> MeanWeights:
        """Return the weights of these rows in the means of the whole step.

        With instance weights the means of a domain are weighted ones, ``sum_i w_i x_i / sum_i w_i``, where what x_i is
        the mean of (a row, its tokens, their pairs) counts in both sums.
        """
        weights, pad_to, lengths = self.instance_weights, self.pad_to, self.rows.lengths
        # Sums over the rows of each domain: of weights, and of weights times tokens and times query-key pairs.
        sums = {}
        for domain, chosen in rows.items():
            own = np.ones(len(chosen)) if weights is None else weights[domain][list(chosen)]
            tokens = lengths[domain][list(chosen)].astype(np.float64)
            if pad_to is not None:
                tokens[:] = pad_to
            sums[domain] = np.array([own.sum(), (own * tokens).sum(), (own * np.square(tokens)).sum()])
        factor = np.array([1.0 if weights is None else weights[domain][row] for domain, row in refs])
        per_row, per_token, per_pair = factor / np.stack([sums[domain] for domain, _ in refs], axis=1)
        own = np.array([lengths[domain][row] for domain, row in refs])
        valid = np.arange(pad_to or int(own.max())) < own[:, None]  # (R, T)
        keys = None if valid.all() else self.put(valid)
        counted = valid if pad_to is None else np.ones_like(valid)
        one_hot = np.array([[domain == other for other, _ in refs] for domain in self.domains])
        return MeanWeights(
            domain_one_hot=self.put(one_hot.astype(np.float32)),
            per_row=self.put(per_row.astype(np.float32)),
            per_token=self.put((counted * per_token[:, None]).astype(np.float32)),
            per_pair=self.put(per_pair.astype(np.float32)),
            query_mask=keys if pad_to is None else None,
            key_mask=keys,
        )
