"""Collation for distillation: from the row indices of a step to batches with mean weights and teacher outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hrkd_cli.distillation.teacher_cache import Teacher
from hrkd_cli.method import MeanWeights, Outputs
from hrkd_cli.training.collator import Collator, RowRef, StepRows, TrainBatch
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.tokenized_split import TokenizedSplit


@dataclass(frozen=True, slots=True)
class DistillBatch(TrainBatch):
    """R rows of a step on the device.

    Attributes:
        teacher: returns the teacher outputs; None if no loss requires them.
    """

    weights: MeanWeights
    teacher: Callable[[], Outputs] | None


class DistillCollator(Collator):
    """Makes batches in the student's tokenization, with teacher outputs unless ``teacher`` is None.

    Attributes:
        row_weights: weight of every row by domain, in the means of losses that compare with the teacher; at first 1.
    """

    def __init__(
        self, teacher: Teacher | None, split: TokenizedSplit, context: TrainContext, *, pad_to: int | None = None
    ) -> None:
        super().__init__(split, context, pad_to=pad_to)
        self.teacher = teacher
        self.row_weights = {domain: np.ones(len(examples)) for domain, examples in split.examples.items()}

    def batch(self, rows: StepRows, refs: Sequence[RowRef], *, teacher: bool = True) -> DistillBatch:
        """Return some rows of a step as one batch, with teacher outputs if ``teacher``.

        Mean weights depend on all rows of the step.
        """
        plain = super().batch(rows, refs)
        outputs = self.teacher.load(refs, plain.tokens) if teacher and self.teacher is not None else None
        return DistillBatch(plain.tokens, plain.domains, plain.labels, self.mean_weights(rows, refs), outputs)

    def mean_weights(self, rows: StepRows, refs: Sequence[RowRef]) -> MeanWeights:
        """Return the weights of some rows in the means of the whole step.

        With row weights w_i, the means of a domain are ``sum_i w_i x_i / sum_i w_i``, where i runs over the
        domain's rows, tokens or query-key pairs; a token or pair has the weight of its row.
        """
        # The denominators of each domain: sums over its rows of weights, weights x tokens and weights x pairs.
        denominators = {}
        for domain, indices in rows.items():
            weights = self.row_weights[domain][list(indices)]
            tokens = self.split.lengths[domain][list(indices)].astype(np.float64)
            if self.pad_to is not None:
                tokens[:] = self.pad_to
            denominators[domain] = np.array([weights.sum(), (weights * tokens).sum(), (weights * tokens**2).sum()])
        weights = np.array([self.row_weights[domain][row] for domain, row in refs])
        per_row, per_token, per_pair = weights / np.stack([denominators[domain] for domain, _ in refs], axis=1)
        lengths = np.array([self.split.lengths[domain][row] for domain, row in refs])
        valid = np.arange(self.pad_to or self.padded_length(lengths.max())) < lengths[:, None]  # (R, T)
        counted = valid if self.pad_to is None else np.ones_like(valid)
        key_mask = None if valid.all() else self.to_device(valid)
        one_hot = np.array([[domain == other for other, _ in refs] for domain in self.domains])
        return MeanWeights(
            domain_one_hot=self.to_device(one_hot.astype(np.float32)),
            per_row=self.to_device(per_row.astype(np.float32)),
            per_token=self.to_device((counted * per_token[:, None]).astype(np.float32)),
            per_pair=self.to_device(per_pair.astype(np.float32)),
            query_mask=key_mask if self.pad_to is None else None,
            key_mask=key_mask,
        )
