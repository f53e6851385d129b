"""The losses, one module each.

To add a loss, add a module that defines ``LOSS``, a ``Loss``: its name, what it requires, and a function that takes
``LossInputs`` and returns one number per domain, (D,), or per layer and domain, (L, D). Then add its weight to
``DistillSettings`` as ``NAME_weight``, and see which losses the other properties and methods of that class name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from pkgutil import iter_modules

from torch import Tensor

from hrkd_cli.method.model_outputs import Labels, MeanWeights, Outputs


class Requirement(StrEnum):
    """What a loss can require: outputs of teacher and student, or labels. Only what a loss requires is computed."""

    HIDDEN_STATES = "hidden states"
    QUERIES_KEYS = "queries and keys"
    LOGITS = "logits"
    LABELS = "labels"
    DOMAINS = "domains"
    OLD_DOMAINS = "old domains"


@dataclass(frozen=True, slots=True)
class LossInputs:
    """Inputs of all losses for R rows of a step.

    Attributes:
        teacher: teacher outputs; None if no loss requires them.
        student: student outputs, with hidden states projected to the teacher's width.
        weights: weight of each row, token and query-key pair in its domain's means.
        labels: None if no loss requires them.
        temperature: divides the logits that the prediction and the retention loss compare.
        mean_classes: mean number of classes per domain; the prediction loss's sum over classes is divided by it.
        class_weights: (R, C), factor of each class's term; None for no class weights.
        old_domains: (R, K, C), the logits of the extended student and of this one for the former's K domains, with
            ``MASKED_LOGIT`` where one has fewer than C labels; None if no student is extended.
    """

    teacher: Outputs | None
    student: Outputs
    weights: MeanWeights
    labels: Labels | None
    temperature: float
    mean_classes: float
    class_weights: Tensor | None
    old_domains: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss. Its weight is the option ``NAME_weight``.

    Attributes:
        name: its name in options and metrics.
        requires: the inputs that it reads.
        compute: returns one number per domain, (D,), or per layer and domain, (L, D) for the last L layers; the numbers
            of layers are multiplied by the domain ratios. They are sums over rows weighted by ``LossInputs.weights``
            (or ``Labels.weights``), so that the results for parts of a step add up to that of the step.
    """

    name: str
    requires: frozenset[Requirement]
    compute: Callable[[LossInputs], Tensor]

    @property
    def compares_layers(self) -> bool:
        """Whether it compares hidden states or attention of matched layers."""
        return bool(self.requires & {Requirement.HIDDEN_STATES, Requirement.QUERIES_KEYS})


LOSSES: tuple[Loss, ...] = tuple(import_module(f"{__name__}.{module.name}").LOSS for module in iter_modules(__path__))
