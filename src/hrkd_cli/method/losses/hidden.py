"""Mean squared error of hidden states, token by token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hrkd_cli.method.losses import Loss, LossInputs, Requirement
from hrkd_cli.method.model_outputs import masked_copy, upcast


def hidden_loss(inputs: LossInputs) -> Tensor:
    """Return ``MSE(teacher_hidden[m(l)], P_l(student_hidden[l]))`` per layer l = 0..L and domain, (L+1, D).

    The mean runs over the tokens of the domain and the teacher's width H (paper, section 3.1).
    """
    assert inputs.teacher is not None
    teacher, student, weights = inputs.teacher.hidden, inputs.student.hidden, inputs.weights
    assert teacher is not None
    assert student is not None
    per_row: Tensor = _SquaredError.apply(teacher, student, weights.per_token, weights.query_mask)  # type: ignore[no-untyped-call]
    return weights.sum_by_domain(per_row) / teacher.shape[-1]


class _SquaredError(torch.autograd.Function):
    """``sum_t per_token[r,t] |teacher[l,r,t] - student[l,r,t]|^2``, (L+1, R); saves only the difference for backward.

    The difference of two bf16 tensors is bf16 too. It is rounded once, relative to its own size, which is no more than
    the rounding of either tensor. Sums are float32.
    """

    @staticmethod
    def forward(ctx: Any, teacher: Tensor, student: Tensor, per_token: Tensor, mask: Tensor | None) -> Tensor:
        both_bf16 = teacher.dtype is student.dtype is torch.bfloat16
        difference = student - teacher if both_bf16 else upcast(student) - teacher
        if mask is not None:  # padding may hold anything, including NaN
            masked_copy(difference, mask[:, :, None], out=difference)
        ctx.save_for_backward(difference, per_token)
        ctx.dtype = student.dtype
        squares = torch.linalg.vector_norm(difference, dim=-1, dtype=per_token.dtype).square()  # (L+1, R, T)
        per_row: Tensor = (squares * per_token).sum(dim=-1)
        return per_row

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None, None]:
        difference, per_token = ctx.saved_tensors
        factor = 2 * gradients[0][..., None, None] * per_token[:, :, None]  # (L+1, R, T, 1)
        return None, (difference * factor.to(difference.dtype)).to(ctx.dtype), None, None


LOSS = Loss("hidden", frozenset({Requirement.HIDDEN_STATES}), hidden_loss)
