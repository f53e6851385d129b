"""The losses, one module each; see ``Loss`` for what a module has to define."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from pkgutil import iter_modules

from torch import Tensor

from hrkd_cli.method.model_outputs import Labels, MeanWeights, Outputs


class Need(StrEnum):
    """What of the rows a loss looks at; the last two are its teacher's and student's logits, and the labels."""

    HIDDEN = "hidden states"
    ATTENTION = "queries and keys"
    LOGITS = "logits"
    LABELS = "labels"


@dataclass(frozen=True, slots=True)
class LossInput:
    """The rows of a step, or a part of them, as the losses see them.

    Attributes:
        teacher: outputs of the teachers; None where no loss needs them.
        student: outputs of the student, its hidden states projected to the teacher's width.
        weights: see MeanWeights.
        labels: None where no loss needs them.
        temperature: both logits are divided by it in the prediction loss.
        mean_classes: mean number of classes of a domain, which divides the prediction loss's sum over classes.
        class_weights: (R, C) factors of the classes' terms; None where all count the same.
    """

    teacher: Outputs | None
    student: Outputs
    weights: MeanWeights
    labels: Labels | None
    temperature: float
    mean_classes: float
    class_weights: Tensor | None


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss; each module of this package defines one as ``LOSS``, and its weight is the option ``NAME_weight``.

    Attributes:
        name: its name in metrics.
        needs: what it looks at.
        compute: returns one number for each domain, (D,), or for each of the last layers and domain, (L, D), to be
            multiplied by the domain ratios.
        within: name of a loss whose weight multiplies its own.
    """

    name: str
    needs: frozenset[Need]
    compute: Callable[[LossInput], Tensor]
    within: str | None = None

    @property
    def of_layers(self) -> bool:
        """Whether it compares layers, hidden states or attention."""
        return bool(self.needs & {Need.HIDDEN, Need.ATTENTION})


def weighted_losses(weights: Mapping[str, float], *, layers: bool) -> dict[Loss, float]:
    """Return the losses that have a weight, with their weights; ``layers`` tells whether layers are compared at all."""
    found = {loss: weights[loss.name] * (weights[loss.within] if loss.within else 1.0) for loss in LOSSES}
    return {loss: weight for loss, weight in found.items() if weight and (layers or not loss.of_layers)}


LOSSES: tuple[Loss, ...] = tuple(import_module(f"{__name__}.{module.name}").LOSS for module in iter_modules(__path__))
