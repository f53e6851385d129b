"""Cross-entropy of the student's domain posterior with the domain of each row."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from hrkd_cli.method.losses import Loss, LossInputs, Requirement


def domain_loss(inputs: LossInputs) -> Tensor:
    """Return ``-sum_d target[d] log softmax(student)[d]`` over domain logits, the mean over each domain's rows, (D,).

    The target is 1 for the row's domain. If the teacher has a domain posterior, it is the mean of that and the
    teacher's.
    """
    student, weights = inputs.student.domain_logits, inputs.weights
    assert student is not None
    target = weights.domain_one_hot.T  # (R, D)
    if inputs.teacher is not None and inputs.teacher.domain_logits is not None:
        target = (target + F.softmax(inputs.teacher.domain_logits, dim=-1)) / 2
    per_row = -(target * F.log_softmax(student, dim=-1)).sum(dim=-1)
    return weights.sum_by_domain(per_row * weights.per_row)


LOSS = Loss("domain", frozenset({Requirement.DOMAINS}), domain_loss)
