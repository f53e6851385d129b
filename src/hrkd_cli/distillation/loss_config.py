"""Which losses a run computes, and on which layers of teacher and student."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hrkd_cli.choices import Means, Method
from hrkd_cli.method import LOSSES, Loss, Requirement
from hrkd_cli.models.mean_pooling import encoder_layers
from hrkd_cli.models.student_init import layer_map
from hrkd_cli.settings import DistillSettings


@dataclass(frozen=True, slots=True)
class LossConfig:
    """The losses of a run, and the layers that they compare.

    Attributes:
        weights: the losses whose weight is not 0, with their weights.
        matched_layers: m(l), the teacher layer (1-based) matched with each student layer; empty if no layers are
            compared.
        teacher_width: H.
        pad_to: length that all rows are padded to if means include padding (``--means released``), else None.
    """

    weights: Mapping[Loss, float]
    matched_layers: tuple[int, ...]
    teacher_width: int
    pad_to: int | None

    @classmethod
    def from_settings(
        cls, settings: DistillSettings, teacher_config: Any, student_config: Any, max_length: int
    ) -> LossConfig:
        """Create it from resolved settings, the configs of the models and the tokens per text."""
        layers: tuple[int, ...] = ()
        if settings.compares_layers:
            layers = layer_map(encoder_layers(teacher_config), encoder_layers(student_config))
        pad_to = max_length if settings.means is Means.RELEASED else None
        active = {loss: weight for loss in LOSSES if (weight := _weight(loss, settings))}
        return cls(active, layers, teacher_config.hidden_size, pad_to)

    def requires(self, *requirements: Requirement) -> bool:
        """Return whether any loss requires any of these."""
        return any(not loss.requires.isdisjoint(requirements) for loss in self.weights)


def _weight(loss: Loss, settings: DistillSettings) -> float:
    """Return the weight of a loss; 0 if the method does not compute losses that require what this one does."""
    weight: float = getattr(settings, f"{loss.name}_weight")
    if loss.compares_layers:
        share = 1.0 if loss.name == "hidden" else settings.hidden_weight
        return weight * share if settings.compares_layers else 0.0
    if Requirement.LOGITS in loss.requires and settings.method is Method.LABELS:
        return 0.0
    if Requirement.OLD_DOMAINS in loss.requires and settings.extend is None:
        return 0.0
    return weight
