"""Mean squared difference of attention scores QK^T / sqrt(d), before softmax."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hrkd_cli.method.losses import Loss, LossInput, Need
from hrkd_cli.method.model_outputs import clear, upcast


def attention_loss(given: LossInput) -> Tensor:
    """Return the mean over a domain's query-key pairs and heads of the squared difference, (L, D).

    Where the numbers of heads differ, relations are compared, as many as both can be split into (see ``merge_heads``).
    """
    own, theirs, weights = given.student, given.teacher, given.weights
    assert theirs is not None
    assert own.queries is not None
    assert own.keys is not None
    assert theirs.queries is not None
    assert theirs.keys is not None
    groups = math.gcd(own.queries.shape[2], theirs.queries.shape[2])
    sides = [merge_heads(*pair, groups) for pair in ((theirs.queries, theirs.keys), (own.queries, own.keys))]
    tensors = [tensor for side in sides for tensor in side]
    if any(tensor.dtype is not torch.bfloat16 for tensor in tensors):
        tensors = [upcast(tensor) for tensor in tensors]
    gaps: Tensor = _SquaredDifference.apply(*tensors, weights.queries, weights.keys)  # type: ignore[no-untyped-call]
    return weights.by_domain(gaps * weights.pairs / groups)


def merge_heads(queries: Tensor, keys: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Return queries and keys (L, R, A, T, d) as those of ``groups`` relations, (L, R, groups, T, A d / groups).

    A relation's scores are the sum of the scores of its heads, neighbors, divided by the square root of how many they
    are, as if it were one wide head.
    """
    layers, rows, heads, tokens, _ = queries.shape
    if heads == groups:
        return queries, keys
    found = []
    for tensor in (queries * (groups / heads) ** 0.5, keys):
        split = tensor.view(layers, rows, groups, heads // groups, tokens, -1)
        found.append(split.transpose(3, 4).reshape(layers, rows, groups, tokens, -1))
    return found[0], found[1]


class _SquaredDifference(torch.autograd.Function):
    """``|Q K^T - Q' K'^T|^2`` summed over heads and over the queries and keys that count, (L, R).

    ``[-Q, Q'] [K, K']^T`` is one product with float32 sums, so only the difference itself is rounded. Gradients are
    found at once, layer by layer, and no T x T tensor is kept.

    Takes the teacher's queries and keys, (L, R, A, T, d'), anything where they do not count; the student's, (L, R, A,
    T, d), numbers everywhere; which queries and keys count, (R, T) each, None where all do.
    """

    @staticmethod
    def forward(
        ctx: Any,
        teacher_query: Tensor,
        teacher_key: Tensor,
        query: Tensor,
        key: Tensor,
        queries: Tensor | None,
        keys: Tensor | None,
    ) -> Tensor:
        sums = torch.float32 if query.dtype is torch.bfloat16 else query.dtype
        found = torch.empty(query.shape[:2], dtype=sums, device=query.device)
        to_query, to_key = torch.empty_like(query), torch.empty_like(key)
        own = query.shape[-1]
        left, right = (query.new_empty((*query.shape[1:-1], own + teacher_query.shape[-1])) for _ in range(2))
        for layer in range(len(query)):
            for side, student, teacher, counted, sign in (
                (left, query[layer], teacher_query[layer], queries, -1),  # (R, A, T, d + d')
                (right, key[layer], teacher_key[layer], keys, 1),
            ):
                if counted is None:
                    torch.mul(student, sign, out=side[..., :own])
                    side[..., own:] = teacher
                else:
                    counts = counted[:, None, :, None]
                    torch.mul(student, counts.to(student.dtype) * sign, out=side[..., :own])
                    clear(teacher, counts, out=side[..., own:])
            gap = left @ right.mT  # teacher's scores less the student's, (R, A, T, T)
            found[layer] = torch.linalg.vector_norm(gap, dim=(1, 2, 3), dtype=sums).square()
            # The gap is 0 wherever a query or key does not count.
            torch.matmul(gap, key[layer], out=to_query[layer])
            torch.matmul(gap.mT, query[layer], out=to_key[layer])
        ctx.save_for_backward(to_query, to_key)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        to_query, to_key = ctx.saved_tensors
        factor = (-2 * gradients[0])[..., None, None, None].to(to_query.dtype)
        return None, None, to_query * factor, to_key * factor, None, None


LOSS = Loss("attention", frozenset({Need.ATTENTION}), attention_loss, within="hidden")
