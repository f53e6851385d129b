"""The losses of a step and their weighted sum (paper, section 3.4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class DomainLosses:
    """Unweighted losses of all D domains on the rows of a step, or on part of them.

    Attributes:
        losses: by name, (D,), or (L, D) for the last L layers.
        prototypes: (L+1, D, H); None if there is no graph.
    """

    losses: dict[str, Tensor]
    prototypes: Tensor | None = None

    def __add__(self, other: DomainLosses) -> DomainLosses:
        """Add the losses of other rows of the same step (see MeanWeights)."""
        losses = {name: loss + other.losses[name] for name, loss in self.losses.items()}
        if self.prototypes is None or other.prototypes is None:
            return DomainLosses(losses)
        return DomainLosses(losses, self.prototypes + other.prototypes)


def weighted_terms(
    losses: Mapping[str, Tensor], ratios: Tensor | None, weights: Mapping[str, float]
) -> dict[str, Tensor]:
    """Return the terms of the total loss by name; each is a scalar, and the total is their sum.

    ``weight sum_d sum_l ratio[l,d] loss[l,d]`` for a loss that compares layers, ``weight sum_d loss[d] / D`` for the
    others. ``ratios`` are the domain ratios, (L+1, D); None is the paper's ablation without a graph, in which every
    ratio is 1 and nothing is divided by D.
    """
    terms = {}
    for name, loss in losses.items():
        if ratios is None:
            total = loss.sum()
        elif loss.dim() == 2:
            total = (loss * ratios[-len(loss) :]).sum()
        else:
            total = loss.sum() / len(loss)
        terms[name] = weights[name] * total
    return terms


def weighted_layer_losses(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Return the weighted sum of the losses that compare layers, per layer and domain, (L+1, D)."""
    by_layer = [weights[name] * loss for name, loss in losses.items() if loss.dim() == 2]
    layers = max(map(len, by_layer))
    return sum(F.pad(loss, (0, 0, layers - len(loss), 0)) for loss in by_layer)  # type: ignore[return-value]
