"""Squared differences between what teacher and student show, with gradients by hand and no tensor kept needlessly.

Shapes as in ``hrkd_cli.method.batched_losses``; N = R T.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def state_gap(teacher: Tensor, student: Tensor, shares: Tensor, counted: Tensor | None) -> Tensor:
    """Return ``sum_n share[d,n] |teacher[l,n] - student[l,n]|^2``, (L+1, D).

    Between bf16 tensors the difference is bf16 too: it is rounded once, to a part of itself, which is no more than what
    either side was rounded to. Sums are float32.

    Args:
        teacher: (L+1, N, H); takes no gradient. Anything where a token does not count.
        student: as ``teacher``.
        shares: (D, N), 0 at what does not count.
        counted: (N,), true at tokens that count; None where all do.
    """
    return _apply(_StateGap, teacher, student, shares, counted)


def score_gap(teacher_query: Tensor, teacher_key: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """Return ``|Q K^T - Q' K'^T|^2`` summed over heads, (L, R), by way of the scores; all (L, R, A, T, d) float32."""
    return _apply(_ScoreGap, teacher_query, teacher_key, query, key)


def gram_gap(teacher_query: Tensor, teacher_key: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """Return score_gap by way of d x d matrices, without T x T scores (method section 9)."""
    return _apply(_GramGap, teacher_query, teacher_key, query, key)


def short_score_gap(
    teacher_query: Tensor,
    teacher_key: Tensor,
    query: Tensor,
    key: Tensor,
    queries: Tensor | None,
    keys: Tensor | None,
) -> Tensor:
    """Return score_gap of bf16 tensors, (L, R), over the queries and keys that count ((R, T), None where all do).

    ``[-Q, Q'] [K, K']^T`` is one product with float32 sums, so only the difference itself is rounded. Gradients are
    found at once, layer by layer, and no T x T tensor is kept.

    Args:
        teacher_query: (L, R, A, T, d'), anything where it does not count.
        teacher_key: as ``teacher_query``.
        query: (L, R, A, T, d), the student's; numbers everywhere.
        key: as ``query``.
        queries: see above.
        keys: see above.
    """
    return _apply(_ShortScoreGap, teacher_query, teacher_key, query, key, queries, keys)


class _StateGap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, teacher: Tensor, student: Tensor, shares: Tensor, counted: Tensor | None) -> Tensor:
        short = teacher.dtype is student.dtype is torch.bfloat16
        gap = student - teacher if short else wide(student) - teacher
        # Padding may hold anything, also what is not a number.
        if counted is not None and short:
            _clear(gap, counted[:, None], out=gap)
        elif counted is not None:
            gap.masked_fill_(~counted[:, None], 0.0)
        ctx.save_for_backward(gap, shares)
        ctx.dtype = student.dtype
        squares: Tensor = torch.linalg.vector_norm(gap, dim=-1, dtype=shares.dtype).square()  # (L+1, N)
        with _exact_products():
            return squares @ shares.T

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None, None]:
        gap, shares = ctx.saved_tensors
        with _exact_products():
            factor = (2 * gradients[0] @ shares)[..., None]  # (L+1, N, 1)
        return None, (gap * factor.to(gap.dtype)).to(ctx.dtype), None, None


class _ScoreGap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, teacher_query: Tensor, teacher_key: Tensor, query: Tensor, key: Tensor) -> Tensor:
        gap = (query @ key.mT).sub_(teacher_query @ teacher_key.mT)  # (L, R, A, T, T)
        ctx.save_for_backward(gap, query, key)
        return gap.square().sum(dim=(2, 3, 4))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, Tensor, Tensor]:
        gap, query, key = ctx.saved_tensors
        factor = 2 * gradients[0][..., None, None, None]
        return None, None, (gap @ key).mul_(factor), (gap.mT @ query).mul_(factor)


class _GramGap(torch.autograd.Function):
    # <Q^T Q, K^T K> + <Q'^T Q', K'^T K'> - 2 <Q^T Q', K^T K'>

    @staticmethod
    def forward(ctx: Any, teacher_query: Tensor, teacher_key: Tensor, query: Tensor, key: Tensor) -> Tensor:
        with _exact_products():
            own_query, own_key = query.mT @ query, key.mT @ key
            cross_query, cross_key = teacher_query.mT @ query, teacher_key.mT @ key
            theirs = ((teacher_query.mT @ teacher_query) * (teacher_key.mT @ teacher_key)).sum(dim=(2, 3, 4))
        ctx.save_for_backward(teacher_query, teacher_key, query, key, own_query, own_key, cross_query, cross_key)
        return theirs + (own_query * own_key).sum(dim=(2, 3, 4)) - 2 * (cross_query * cross_key).sum(dim=(2, 3, 4))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, Tensor, Tensor]:
        teacher_query, teacher_key, query, key, own_query, own_key, cross_query, cross_key = ctx.saved_tensors
        factor = 2 * gradients[0][..., None, None, None]
        with _exact_products():
            to_query = (query @ own_key).sub_(teacher_query @ cross_key).mul_(factor)
            to_key = (key @ own_query).sub_(teacher_key @ cross_query).mul_(factor)
        return None, None, to_query, to_key


class _ShortScoreGap(torch.autograd.Function):
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
        found = torch.empty(query.shape[:2], dtype=torch.float32, device=query.device)
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
                    _clear(teacher, counts, out=side[..., own:])
            gap = left @ right.mT  # teacher's scores less the student's, (R, A, T, T)
            found[layer] = torch.linalg.vector_norm(gap, dim=(1, 2, 3), dtype=torch.float32).square()
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


def _clear(values: Tensor, counted: Tensor, *, out: Tensor) -> None:
    """Write bf16 ``values`` into ``out``, 0 where they do not count. Masks bits: a choice takes ten times as long."""
    torch.bitwise_and(values.view(torch.int16), -counted.to(torch.int16), out=out.view(torch.int16))


def wide(tensor: Tensor) -> Tensor:
    """Return half-precision numbers as float32, others as they are."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def _apply(function: type[torch.autograd.Function], *values: Tensor | None) -> Tensor:
    found: Tensor = function.apply(*values)  # type: ignore[no-untyped-call]
    return found


@contextmanager
def _exact_products() -> Iterator[None]:
    """Keep CUDA's float32 matrix products at float32: TF32 has 10 bits, and terms of Gram matrices nearly cancel."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
