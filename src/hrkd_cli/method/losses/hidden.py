"""Mean squared difference of hidden states, token by token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hrkd_cli.method.losses import Loss, LossInput, Need
from hrkd_cli.method.model_outputs import clear, upcast


def hidden_loss(given: LossInput) -> Tensor:
    """Return the mean over a domain's tokens and H of the squared difference, (L+1, D)."""
    assert given.teacher is not None
    teacher, student, weights = given.teacher.hidden, given.student.hidden, given.weights
    assert teacher is not None
    assert student is not None
    gaps: Tensor = _SquaredDifference.apply(teacher, student, weights.tokens, weights.queries)  # type: ignore[no-untyped-call]
    return weights.by_domain(gaps) / teacher.shape[-1]


class _SquaredDifference(torch.autograd.Function):
    """``sum_t token[r,t] |teacher[l,r,t] - student[l,r,t]|^2``, (L+1, R); keeps nothing but the difference.

    Between bf16 tensors the difference is bf16 too: it is rounded once, relative to itself, which is no more than what
    either side was rounded by. Sums are float32.
    """

    @staticmethod
    def forward(ctx: Any, teacher: Tensor, student: Tensor, tokens: Tensor, counted: Tensor | None) -> Tensor:
        short = teacher.dtype is student.dtype is torch.bfloat16
        gap = student - teacher if short else upcast(student) - teacher
        # Padding may hold anything, also what is not a number.
        if counted is not None:
            clear(gap, counted[:, :, None], out=gap)
        ctx.save_for_backward(gap, tokens)
        ctx.dtype = student.dtype
        squares = torch.linalg.vector_norm(gap, dim=-1, dtype=tokens.dtype).square()  # (L+1, R, T)
        found: Tensor = (squares * tokens).sum(dim=-1)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None, None]:
        gap, tokens = ctx.saved_tensors
        factor = 2 * gradients[0][..., None, None] * tokens[:, :, None]  # (L+1, R, T, 1)
        return None, (gap * factor.to(gap.dtype)).to(ctx.dtype), None, None


LOSS = Loss("hidden", frozenset({Need.HIDDEN}), hidden_loss)
