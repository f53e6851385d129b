"""Projections of the student's hidden states to the teacher's width, and the domains' prototypes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hrkd_cli.method.model_outputs import MeanWeights, upcast

INIT_STD = 0.02


class Projections(nn.Module):
    """The projections P_l from student width h to teacher width H: one for the embedding output and one per layer.

    They are trained with the student and then discarded. Weights start at N(0, 0.02), biases at 0.

    Args:
        student_width: h.
        teacher_width: H.
        layers: L.
        near_identity: add the identity to the initial weights (needs h = H). The student then starts in the teacher's
            hidden space, which suits a head copied from the teacher, not in a random projection of it.
    """

    def __init__(self, student_width: int, teacher_width: int, layers: int, *, near_identity: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(layers + 1, teacher_width, student_width))
        self.bias = nn.Parameter(torch.zeros(layers + 1, teacher_width))
        self.bias.no_decay = True  # type: ignore[attr-defined]  # a bias, although it is a matrix (see the optimizer)
        nn.init.normal_(self.weight, std=INIT_STD)
        if near_identity:
            self.weight.data += torch.eye(teacher_width)

    def forward(self, hidden: Tensor) -> Tensor:
        """Project hidden states (L+1, R, T, h) to (L+1, R, T, H)."""
        flat = torch.baddbmm(self.bias[:, None, :], hidden.flatten(1, 2), self.weight.mT)
        return flat.view(*hidden.shape[:3], -1)

    def prototypes(self, hidden: Tensor, weights: MeanWeights) -> Tensor:
        """Return each domain's mean projected hidden state, (L+1, D, H), from (L+1, R, T, h).

        ``F[l,d] = mean over tokens of P_l(hidden[l])`` (paper, section 3.2). For part of a step's rows, this is their
        part of the mean; the parts add up.
        """
        per_token = (weights.domain_one_hot[:, :, None] * weights.per_token).flatten(1)  # (D, R T)
        # The projection of a mean is the mean of the projections. The bias has the sum of the tokens' weights.
        means = per_token @ upcast(hidden).flatten(1, 2)  # (L+1, D, h)
        return means @ self.weight.mT + per_token.sum(dim=1)[:, None] * self.bias[:, None, :]
