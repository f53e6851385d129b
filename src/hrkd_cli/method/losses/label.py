"""Cross-entropy of the student's logits against the labels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from hrkd_cli.method.losses import Loss, LossInput, Need
from hrkd_cli.method.model_outputs import Labels, upcast


def label_loss(given: LossInput) -> Tensor:
    """Return the mean over a domain's labelled rows of the cross-entropy, (D,)."""
    assert given.labels is not None
    return label_terms(given.student.logits, given.labels, given.weights.domains, given.class_weights)


def label_terms(logits: Tensor, labels: Labels, domains: Tensor, class_weights: Tensor | None) -> Tensor:
    """Return the mean cross-entropy of each domain's labelled rows, (D,).

    Args:
        logits: (R, C), the student's.
        labels: see Labels.
        domains: (D, R), 1 where the row is of the domain.
        class_weights: (R, C) factors of the classes' terms; None where all count the same.
    """
    targets = labels.targets.clamp_min(0)
    cross = F.cross_entropy(upcast(logits), targets, reduction="none")
    if class_weights is not None:
        cross = cross * class_weights.gather(1, targets[:, None])[:, 0]
    return domains @ (cross * labels.rows)


LOSS = Loss("label", frozenset({Need.LABELS}), label_loss)
