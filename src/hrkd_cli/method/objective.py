"""From what teacher and student show on one batch of every domain to the loss (paper, section 3.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hrkd_cli.method.losses import attention_loss, hidden_loss, prediction_loss, prototype

PROJECTION_STD = 0.02


@dataclass(frozen=True, slots=True)
class Signals:
    """What one model shows on a batch of one domain.

    Attributes:
        hidden: L+1 tensors (B, T, H), embedding output first; the teacher's at its matched layers, the student's
            already projected. Empty when only logits are compared.
        scores: L tensors (B, A, T, T), attention scores before softmax, of layers 1..L; empty when attention is left
            out.
        logits: (B, C), the domain's own labels.
    """

    hidden: Sequence[Tensor]
    scores: Sequence[Tensor]
    logits: Tensor


@dataclass(frozen=True, slots=True)
class DomainTerms:
    """The unweighted losses of one domain.

    Attributes:
        hidden: (L+1,), or (0,) when hidden states are left out.
        attention: as ``hidden``; its entry 0 (the embedding, which has no attention) is 0.
        prediction: scalar.
        prototypes: (L+1, H), or (0,) when hidden states are left out.
    """

    hidden: Tensor
    attention: Tensor
    prediction: Tensor
    prototypes: Tensor


@dataclass(frozen=True, slots=True)
class BatchTerms:
    """The unweighted losses of all D domains; with hidden states left out, the first dimension of three is 0.

    Attributes:
        hidden: (L+1, D).
        attention: (L+1, D); its row 0 (the embedding, which has no attention) is 0.
        prediction: (D,).
        prototypes: (L+1, D, H).
        label: (D,), cross-entropy against the labels; None where it is not asked for.
    """

    hidden: Tensor
    attention: Tensor
    prediction: Tensor
    prototypes: Tensor
    label: Tensor | None = None

    @classmethod
    def of(cls, terms: Sequence[DomainTerms]) -> BatchTerms:
        """Put the terms of single domains side by side."""
        return cls(
            torch.stack([t.hidden for t in terms], dim=1),
            torch.stack([t.attention for t in terms], dim=1),
            torch.stack([t.prediction for t in terms]),
            torch.stack([t.prototypes for t in terms], dim=1),
        )

    def __add__(self, other: BatchTerms) -> BatchTerms:
        """Add the terms of other rows of the same step, each row with its share in its domain's mean."""
        label = None if self.label is None or other.label is None else self.label + other.label
        return BatchTerms(
            self.hidden + other.hidden,
            self.attention + other.attention,
            self.prediction + other.prediction,
            self.prototypes + other.prototypes,
            label,
        )


@dataclass(frozen=True, slots=True)
class LossParts:
    """The total loss and the weighted parts that add up to it, all scalars."""

    total: Tensor
    hidden: Tensor
    attention: Tensor
    prediction: Tensor
    label: Tensor | None = None


class Projections(nn.Module):
    """P_l of section 2: student width h to teacher width H, one for the embedding and one for each of L layers.

    They are trained with the student and dropped afterwards. Weights start at N(0, 0.02), biases at 0.

    Args:
        student_width: h.
        teacher_width: H.
        layers: L.
        around_identity: add the identity to the first weights, where h = H: the student is then drawn into the
            teacher's own space, in which the teacher's head can be its start, and not into a random image of it.
    """

    def __init__(self, student_width: int, teacher_width: int, layers: int, *, around_identity: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(layers + 1, teacher_width, student_width))
        self.bias = nn.Parameter(torch.zeros(layers + 1, teacher_width))
        self.bias.no_decay = True  # type: ignore[attr-defined]  # a bias, though a matrix: see the optimiser
        nn.init.normal_(self.weight, std=PROJECTION_STD)
        if around_identity:
            self.weight.data += torch.eye(teacher_width)

    def forward(self, hidden: Tensor) -> Tensor:
        """Project (L+1, R, T, h) to (L+1, R, T, H)."""
        flat = torch.baddbmm(self.bias[:, None, :], hidden.flatten(1, 2), self.weight.mT)
        return flat.view(*hidden.shape[:3], -1)


def domain_terms(
    teacher: Signals,
    student: Signals,
    mask: Tensor,
    *,
    temperature: float = 1.0,
    mean_classes: float | None = None,
    class_weights: Tensor | None = None,
    padded: bool = False,
) -> DomainTerms:
    """Compare teacher and student on one batch of one domain.

    Args:
        teacher: see Signals.
        student: see Signals.
        mask: (B, T), true at valid tokens.
        temperature: see prediction_loss.
        mean_classes: see prediction_loss.
        class_weights: see prediction_loss.
        padded: let the means run over padded positions too (released code).
    """
    prediction = prediction_loss(
        teacher.logits, student.logits, temperature=temperature, mean_classes=mean_classes, class_weights=class_weights
    )
    if not student.hidden:
        none = prediction.new_zeros(0)
        return DomainTerms(none, none, prediction, none)
    pairs = zip(teacher.hidden, student.hidden, strict=True)
    hidden = torch.stack([hidden_loss(t, s, mask, padded=padded) for t, s in pairs])
    attention = torch.zeros_like(hidden)
    if student.scores:
        scores = zip(teacher.scores, student.scores, strict=True)
        by_layer = [attention_loss(t, s, mask, padded=padded) for t, s in scores]
        attention = torch.stack([by_layer[0].new_zeros(()), *by_layer])
    prototypes = torch.stack([prototype(states, mask, padded=padded) for states in student.hidden])
    return DomainTerms(hidden, attention, prediction, prototypes)


def combine(
    terms: Sequence[DomainTerms] | BatchTerms,
    ratios: Tensor | None,
    *,
    hidden_weight: float = 1.0,
    attention_weight: float = 1.0,
    prediction_weight: float = 1.0,
    label_weight: float = 0.0,
) -> LossParts:
    """Add up the domains' losses.

    ``sum_d w_hidden sum_l ratio[l,d] (hid[l,d] + w_att att[l,d]) + (w_pred prediction[d] + w_label label[d]) / D``

    Args:
        terms: of all domains, or one a domain.
        ratios: (L+1, D) domain ratios; None for the paper's ablation without a graph, in which every ratio is 1 and the
            prediction term is not divided by D.
        hidden_weight: w_hidden.
        attention_weight: w_att.
        prediction_weight: w_pred.
        label_weight: w_label, of the terms' label loss where they have one.
    """
    if not isinstance(terms, BatchTerms):
        terms = BatchTerms.of(terms)
    hidden, attention, prediction = terms.hidden, terms.attention, terms.prediction.sum() * prediction_weight
    label = None if terms.label is None else terms.label.sum() * label_weight
    if ratios is not None:
        hidden, attention = hidden * ratios, attention * ratios
        prediction = prediction / len(terms.prediction)
        label = None if label is None else label / len(terms.prediction)
    hidden_total = hidden_weight * hidden.sum()
    attention_total = hidden_weight * attention_weight * attention.sum()
    total = hidden_total + attention_total + prediction
    total = total if label is None else total + label
    return LossParts(total, hidden_total, attention_total, prediction, label)
