"""Cross-entropy of the student's logits with the labels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from hrkd_cli.method.losses import Loss, LossInputs, Requirement
from hrkd_cli.method.model_outputs import Labels, upcast


def label_loss(inputs: LossInputs) -> Tensor:
    """Return ``-log softmax(student)[label]``, the mean over each domain's labeled rows, (D,)."""
    assert inputs.labels is not None
    return label_cross_entropy(
        inputs.student.logits, inputs.labels, inputs.weights.domain_one_hot, inputs.class_weights
    )


def label_cross_entropy(logits: Tensor, labels: Labels, domain_one_hot: Tensor, class_weights: Tensor | None) -> Tensor:
    """Return the mean cross-entropy of each domain's labeled rows, (D,).

    Args:
        logits: (R, C), the student's.
        labels: targets, and the weight of each row.
        domain_one_hot: (D, R), 1 if the row belongs to the domain.
        class_weights: (R, C), factor of each class's term; None for no class weights.
    """
    targets = labels.targets.clamp_min(0)
    per_row = F.cross_entropy(upcast(logits), targets, reduction="none")
    if class_weights is not None:
        per_row = per_row * class_weights.gather(1, targets[:, None])[:, 0]
    return domain_one_hot @ (per_row * labels.weights)


LOSS = Loss("label", frozenset({Requirement.LABELS}), label_loss)
