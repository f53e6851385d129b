"""Soft cross-entropy of the student's logits with the teacher's."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from hrkd_cli.method.losses import Loss, LossInputs, Requirement
from hrkd_cli.method.model_outputs import upcast


def prediction_loss(inputs: LossInputs) -> Tensor:
    """Return ``sum_c -softmax(teacher / t) log_softmax(student / t)``, the mean over each domain's rows, (D,).

    The sum over classes is divided by the mean number of classes per domain. If all domains have C classes, this is the
    released code's mean over rows and C. There is no factor t^2 (paper, section 3.1).
    """
    assert inputs.teacher is not None
    teacher = upcast(inputs.teacher.logits) / inputs.temperature
    student = upcast(inputs.student.logits) / inputs.temperature
    terms = -F.softmax(teacher, dim=-1) * F.log_softmax(student, dim=-1)  # (R, C)
    if inputs.class_weights is not None:
        terms = terms * inputs.class_weights
    return inputs.weights.sum_by_domain(terms.sum(dim=-1) * inputs.weights.per_row) / inputs.mean_classes


LOSS = Loss("prediction", frozenset({Requirement.LOGITS}), prediction_loss)
