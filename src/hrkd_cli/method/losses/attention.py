"""Mean squared error of attention scores QK^T / sqrt(d), before softmax."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hrkd_cli.method.losses import Loss, LossInputs, Requirement
from hrkd_cli.method.model_outputs import masked_copy, upcast


def attention_loss(inputs: LossInputs) -> Tensor:
    """Return ``MSE(teacher_scores[m(l)], student_scores[l])`` per layer l = 1..L and domain, (L, D).

    The mean runs over the query-key pairs of the domain and the heads (paper, section 3.1). If the numbers of heads
    differ, both sides are merged into their greatest common divisor of head groups (see ``merge_heads``).
    """
    student, teacher, weights = inputs.student, inputs.teacher, inputs.weights
    assert teacher is not None
    assert student.queries is not None
    assert student.keys is not None
    assert teacher.queries is not None
    assert teacher.keys is not None
    groups = math.gcd(student.queries.shape[2], teacher.queries.shape[2])
    tensors = [
        *merge_heads(teacher.queries, teacher.keys, groups),
        *merge_heads(student.queries, student.keys, groups),
    ]
    if any(tensor.dtype is not torch.bfloat16 for tensor in tensors):
        tensors = [upcast(tensor) for tensor in tensors]
    per_row: Tensor = _SquaredError.apply(*tensors, weights.query_mask, weights.key_mask)  # type: ignore[no-untyped-call]
    return weights.sum_by_domain(per_row * weights.per_pair / groups)


def merge_heads(queries: Tensor, keys: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Merge neighboring heads: queries and keys (L, R, A, T, d) to (L, R, groups, T, A d / groups).

    The scores of a group are the sum of its heads' scores divided by the square root of their number, as if the group
    were one wide head.
    """
    layers, rows, heads, tokens, _ = queries.shape
    if heads == groups:
        return queries, keys
    merged = []
    for tensor in (queries * (groups / heads) ** 0.5, keys):
        split = tensor.view(layers, rows, groups, heads // groups, tokens, -1)
        merged.append(split.transpose(3, 4).reshape(layers, rows, groups, tokens, -1))
    return merged[0], merged[1]


class _SquaredError(torch.autograd.Function):
    """``|Q K^T - Q' K'^T|^2`` summed over heads and over unmasked queries and keys, (L, R).

    ``[-Q, Q'] [K, K']^T`` is a single product with float32 sums, so only the difference itself is rounded. The forward
    pass also computes the gradients, layer by layer, and saves no T x T tensor.

    Inputs: the teacher's queries and keys, (L, R, A, T, d'), which may hold anything at masked tokens; the student's,
    (L, R, A, T, d), finite everywhere; the masks of queries and keys, (R, T) each, None if nothing is masked.
    """

    @staticmethod
    def forward(
        ctx: Any,
        teacher_queries: Tensor,
        teacher_keys: Tensor,
        queries: Tensor,
        keys: Tensor,
        query_mask: Tensor | None,
        key_mask: Tensor | None,
    ) -> Tensor:
        sum_dtype = torch.float32 if queries.dtype is torch.bfloat16 else queries.dtype
        per_row = torch.empty(queries.shape[:2], dtype=sum_dtype, device=queries.device)
        query_gradient, key_gradient = torch.empty_like(queries), torch.empty_like(keys)
        width = queries.shape[-1]
        left, right = (queries.new_empty((*queries.shape[1:-1], width + teacher_queries.shape[-1])) for _ in range(2))
        for layer in range(len(queries)):
            for side, student, teacher, mask, sign in (
                (left, queries[layer], teacher_queries[layer], query_mask, -1),  # (R, A, T, d + d')
                (right, keys[layer], teacher_keys[layer], key_mask, 1),
            ):
                if mask is None:
                    torch.mul(student, sign, out=side[..., :width])
                    side[..., width:] = teacher
                else:
                    expanded = mask[:, None, :, None]
                    torch.mul(student, expanded.to(student.dtype) * sign, out=side[..., :width])
                    masked_copy(teacher, expanded, out=side[..., width:])
            difference = left @ right.mT  # teacher's scores minus the student's, (R, A, T, T); 0 where masked
            per_row[layer] = torch.linalg.vector_norm(difference, dim=(1, 2, 3), dtype=sum_dtype).square()
            torch.matmul(difference, keys[layer], out=query_gradient[layer])
            torch.matmul(difference.mT, queries[layer], out=key_gradient[layer])
        ctx.save_for_backward(query_gradient, key_gradient)
        return per_row

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query_gradient, key_gradient = ctx.saved_tensors
        factor = (-2 * gradients[0])[..., None, None, None].to(query_gradient.dtype)
        return None, None, query_gradient * factor, key_gradient * factor, None, None


LOSS = Loss("attention", frozenset({Requirement.QUERIES_KEYS}), attention_loss)
