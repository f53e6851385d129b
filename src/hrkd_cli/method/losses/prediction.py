"""Soft cross-entropy of the student's logits against the teacher's."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from hrkd_cli.method.losses import Loss, LossInput, Need
from hrkd_cli.method.model_outputs import upcast


def prediction_loss(given: LossInput) -> Tensor:
    """Return the mean over a domain's rows of ``sum_c -softmax(teacher / t) log_softmax(student / t)``, (D,).

    The sum over classes is divided by the mean number of classes of a domain: where all domains have C classes this is
    the released code's mean over rows and C. There is no factor t^2.
    """
    assert given.teacher is not None
    teacher, student = (upcast(outputs.logits) / given.temperature for outputs in (given.teacher, given.student))
    terms = -F.softmax(teacher, dim=-1) * F.log_softmax(student, dim=-1)  # (R, C)
    if given.class_weights is not None:
        terms = terms * given.class_weights
    return given.weights.by_domain(terms.sum(dim=-1) * given.weights.rows) / given.mean_classes


LOSS = Loss("prediction", frozenset({Need.LOGITS}), prediction_loss)
