"""From the student's width to the teacher's: projections of hidden states, and the prototypes of the domains."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hrkd_cli.method.model_outputs import MeanWeights, upcast

PROJECTION_STD = 0.02


class Projections(nn.Module):
    """P_l of the method: student width h to teacher width H, one for the embedding and one for each of L layers.

    They are trained with the student and dropped afterwards. Weights start at N(0, 0.02), biases at 0.

    Args:
        student_width: h.
        teacher_width: H.
        layers: L.
        around_identity: add the identity to the first weights, where h = H: the student then starts in the teacher's
            own space, which the teacher's head can start from, and not in a random image of it.
    """

    def __init__(self, student_width: int, teacher_width: int, layers: int, *, around_identity: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(layers + 1, teacher_width, student_width))
        self.bias = nn.Parameter(torch.zeros(layers + 1, teacher_width))
        self.bias.no_decay = True  # type: ignore[attr-defined]  # a bias, though a matrix: see the optimizer
        nn.init.normal_(self.weight, std=PROJECTION_STD)
        if around_identity:
            self.weight.data += torch.eye(teacher_width)

    def forward(self, hidden: Tensor) -> Tensor:
        """Project (L+1, R, T, h) to (L+1, R, T, H)."""
        flat = torch.baddbmm(self.bias[:, None, :], hidden.flatten(1, 2), self.weight.mT)
        return flat.view(*hidden.shape[:3], -1)

    def prototypes(self, hidden: Tensor, weights: MeanWeights) -> Tensor:
        """Return the mean projected state of each domain (paper, section 3.2), (L+1, D, H), of (L+1, R, T, h).

        Of a part of a step's rows, their part of it: those of all parts add up.
        """
        tokens = (weights.domains[:, :, None] * weights.tokens).flatten(1)  # (D, R T)
        # The projection of a mean is the mean of projections; the bias counts as often as there are tokens here.
        means = tokens @ upcast(hidden).flatten(1, 2)  # (L+1, D, h)
        return means @ self.weight.mT + tokens.sum(dim=1)[:, None] * self.bias[:, None, :]
