"""The losses of a step, and their weighted sum (paper, section 3.4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class DomainLosses:
    """Unweighted losses of all D domains on a step's rows, or on a part of them.

    Attributes:
        losses: by name, (D,), or (L, D) of the last L layers.
        prototypes: (L+1, D, H); None where no graph needs them.
    """

    losses: dict[str, Tensor]
    prototypes: Tensor | None = None

    def __add__(self, other: DomainLosses) -> DomainLosses:
        """Add the losses of other rows of the same step: each row has its weight in its domain's mean."""
        losses = {name: loss + other.losses[name] for name, loss in self.losses.items()}
        one, two = self.prototypes, other.prototypes
        return DomainLosses(losses, None if one is None or two is None else one + two)


def combine(losses: Mapping[str, Tensor], ratios: Tensor | None, weights: Mapping[str, float]) -> dict[str, Tensor]:
    """Return the weighted losses, scalars that add up to the total.

    ``weight sum_d sum_l ratio[l,d] loss[l,d]`` of a loss of layers, ``weight sum_d loss[d] / D`` of the others.

    Args:
        losses: see DomainLosses.
        ratios: (L+1, D) domain ratios; None for the paper's ablation without a graph, in which every ratio is 1 and no
            loss is divided by D.
        weights: by name.
    """
    found = {}
    for name, loss in losses.items():
        if ratios is None:
            total = loss.sum()
        elif loss.dim() == 2:
            total = (loss * ratios[-len(loss) :]).sum()
        else:
            total = loss.sum() / len(loss)
        found[name] = weights[name] * total
    return found


def layer_losses(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Return the weighted sum of the losses of layers, for each layer and domain, (L+1, D)."""
    found = [weights[name] * loss for name, loss in losses.items() if loss.dim() == 2]
    depth = max(map(len, found))
    return sum(F.pad(loss, (0, 0, depth - len(loss), 0)) for loss in found)  # type: ignore[return-value]
