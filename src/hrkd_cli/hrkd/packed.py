"""The losses of a whole step at once: rows of all domains side by side, each with its share in its domain's mean.

The same numbers as ``domain_terms`` gives domain by domain, in a handful of large operations. Shares are known before
anything runs (they depend on lengths only), so a part of the rows gives a part of every mean: what several processes
find for their own rows adds up to the terms of the whole batch.

Shapes: R rows of all domains, T tokens, D domains, the other letters as in ``hrkd_cli.hrkd``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hrkd_cli.hrkd.objective import BatchTerms, Projections

ABSENT = -1e4  # logit of a class that a domain has not: its probability is exactly 0, and nothing becomes NaN


@dataclass(frozen=True, slots=True)
class Shares:
    """What each row and token counts for in the means of its domain.

    Attributes:
        domains: (D, R), 1 where the row is of the domain.
        rows: (R,), 1 / rows of the row's domain.
        tokens: (R, T), 1 / tokens of the domain at tokens that count, else 0.
        pairs: (R,), 1 / query-key pairs of the domain.
        queries: (R, T), true at queries that count; None where all do.
        keys: (R, T), true at keys that are not padding; None where none is.
    """

    domains: Tensor
    rows: Tensor
    tokens: Tensor
    pairs: Tensor
    queries: Tensor | None
    keys: Tensor | None


@dataclass(frozen=True, slots=True)
class TeacherSignals:
    """What the teachers show on a step's rows.

    Attributes:
        hidden: (L+1, R, T, H) at the matched layers, embedding first; None when only logits are compared.
        queries: (L, R, A, T, d), already divided by sqrt(d); None when attention is left out.
        keys: as ``queries``.
        energies: (L, R), the squared norm of each row's attention scores over heads and the pairs that count; None
            where it is not known yet.
        logits: (R, C), each row's own labels, ``ABSENT`` where its domain has fewer than C.
    """

    hidden: Tensor | None
    queries: Tensor | None
    keys: Tensor | None
    energies: Tensor | None
    logits: Tensor


@dataclass(frozen=True, slots=True)
class StudentSignals:
    """What the student shows.

    Attributes:
        hidden: (L+1, R, T, h); None when only logits are compared.
        projected: the same at the teacher's width, (L+1, R, T, H).
        queries: (L, R, A, T, d), already divided by sqrt(d); None when attention is left out.
        keys: as ``queries``.
        logits: (R, C), as the teacher's.
    """

    hidden: Tensor | None
    projected: Tensor | None
    queries: Tensor | None
    keys: Tensor | None
    logits: Tensor


def packed_terms(
    teacher: TeacherSignals,
    student: StudentSignals,
    shares: Shares,
    projections: Projections | None,
    *,
    temperature: float = 1.0,
    mean_classes: float,
    class_weights: Tensor | None = None,
) -> BatchTerms:
    """Compare teachers and student on the rows of one step.

    Args:
        teacher: see TeacherSignals.
        student: see StudentSignals.
        shares: see Shares.
        projections: those that made ``student.projected``; None where that is ``student.hidden`` itself.
        temperature: see ``prediction_loss``.
        mean_classes: divisor of the sum over classes, see ``prediction_loss``.
        class_weights: (R, C) factors of the classes' terms.

    Returns:
        The terms of all domains; of the whole batch when the shares of the rows add up to 1 in every domain.
    """
    cross = _cross_entropy(teacher.logits, student.logits, temperature, class_weights)
    prediction = shares.domains @ (cross * shares.rows) / mean_classes  # (D,)
    if student.hidden is None or student.projected is None or teacher.hidden is None:
        none = prediction.new_zeros((0, len(prediction)))
        return BatchTerms(none, none, prediction, none[..., None])
    gaps = _apply(_Gap, teacher.hidden, student.projected, shares.tokens) / teacher.hidden.shape[-1]  # (L+1, R)
    hidden = gaps @ shares.domains.T
    attention = torch.zeros_like(hidden)
    if student.queries is not None:
        attention = _attention_gaps(teacher, student, shares) * shares.pairs / student.queries.shape[2]  # (L, R)
        attention = torch.cat([torch.zeros_like(hidden[:1]), attention @ shares.domains.T])
    # The mean state of each domain, (L+1, D, h). A projection of a mean is the mean of projections.
    means = shares.domains @ (shares.tokens[:, None, :] @ _wide(student.hidden)).squeeze(2)
    if projections is not None:
        # The bias counts as often as there are rows here.
        present = (shares.domains @ shares.tokens.sum(dim=1))[:, None]
        means = means @ projections.weight.mT + present * projections.bias[:, None, :]
    return BatchTerms(hidden, attention, prediction, means)


def attention_energy(queries: Tensor, keys: Tensor) -> Tensor:
    """Return |Q K^T|^2 summed over heads, (L, R), without the T x T scores.

    ``|Q K^T|^2 = <Q^T Q, K^T K>``: needs float32.

    Args:
        queries: (L, R, A, T, d), zero where a query does not count.
        keys: (L, R, A, T, d), zero at padding.
    """
    with _exact_products():
        queries, keys = _wide(queries), _wide(keys)
        return ((queries.mT @ queries) * (keys.mT @ keys)).sum(dim=(2, 3, 4))


def _cross_entropy(teacher: Tensor, student: Tensor, temperature: float, class_weights: Tensor | None) -> Tensor:
    """Soft cross-entropy of each row, (R,), summed over classes."""
    terms = -F.softmax(_wide(teacher) / temperature, dim=-1) * F.log_softmax(_wide(student) / temperature, dim=-1)
    return (terms if class_weights is None else terms * class_weights).sum(dim=-1)


def _attention_gaps(teacher: TeacherSignals, student: StudentSignals, shares: Shares) -> Tensor:
    """Squared differences of attention scores, (L, R), summed over heads and the pairs that count."""
    query, key, teacher_query, teacher_key = (
        _wide(t) for t in (student.queries, student.keys, teacher.queries, teacher.keys) if t is not None
    )
    if shares.keys is not None:
        mask = shares.keys[:, None, :, None]
        key, teacher_key = (torch.where(mask, t, 0.0) for t in (key, teacher_key))
    if shares.queries is not None:
        mask = shares.queries[:, None, :, None]
        query, teacher_query = (torch.where(mask, t, 0.0) for t in (query, teacher_query))
    tokens, own, theirs = query.shape[-2], query.shape[-1], teacher_query.shape[-1]
    # Multiplications a token, forward and backward: Gram matrices against the T x T scores.
    grams, scores = 4 * own * (own + theirs), tokens * (theirs + 3 * own)
    energies = teacher.energies
    if scores <= (grams if energies is not None else grams + 2 * theirs * theirs):
        return _apply(_ScoreGap, teacher_query, teacher_key, query, key)
    if energies is None:
        energies = attention_energy(teacher_query, teacher_key)
    return energies + _apply(_GramGap, teacher_query, teacher_key, query, key)


class _Gap(torch.autograd.Function):
    """``sum_t share[r,t] |teacher[l,r,t] - student[l,r,t]|^2``, (L+1, R): keeps its inputs only, no float32 copy."""

    @staticmethod
    def forward(ctx: Any, teacher: Tensor, student: Tensor, shares: Tensor) -> Tensor:
        ctx.save_for_backward(teacher, student, shares)
        squares = (_wide(student) - teacher).square_().sum(dim=-1)  # (L+1, R, T)
        # Padding may hold anything, also what is not a number.
        return torch.where(shares > 0, squares * shares, 0.0).sum(dim=-1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None]:
        teacher, student, shares = ctx.saved_tensors
        factor = (2 * gradients[0][..., None] * shares)[..., None]  # (L+1, R, T, 1)
        found = (_wide(student) - teacher).mul_(factor)
        return None, torch.where(factor != 0, found, 0.0).to(student.dtype), None


class _ScoreGap(torch.autograd.Function):
    """``|Q K^T - Q' K'^T|^2`` summed over heads, (L, R), by way of the scores."""

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
    """As _ScoreGap without the teacher's own term, from d x d matrices: ``<Q'^T Q', K'^T K'> - 2 <Q^T Q', K^T K'>``."""

    @staticmethod
    def forward(ctx: Any, teacher_query: Tensor, teacher_key: Tensor, query: Tensor, key: Tensor) -> Tensor:
        with _exact_products():
            own_query, own_key = query.mT @ query, key.mT @ key
            cross_query, cross_key = teacher_query.mT @ query, teacher_key.mT @ key
        ctx.save_for_backward(teacher_query, teacher_key, query, key, own_query, own_key, cross_query, cross_key)
        return (own_query * own_key).sum(dim=(2, 3, 4)) - 2 * (cross_query * cross_key).sum(dim=(2, 3, 4))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, Tensor, Tensor]:
        teacher_query, teacher_key, query, key, own_query, own_key, cross_query, cross_key = ctx.saved_tensors
        factor = 2 * gradients[0][..., None, None, None]
        with _exact_products():
            to_query = (query @ own_key).sub_(teacher_query @ cross_key).mul_(factor)
            to_key = (key @ own_query).sub_(teacher_key @ cross_query).mul_(factor)
        return None, None, to_query, to_key


def _apply(function: type[torch.autograd.Function], *tensors: Tensor) -> Tensor:
    found: Tensor = function.apply(*tensors)  # type: ignore[no-untyped-call]
    return found


def _wide(tensor: Tensor) -> Tensor:
    """Return half-precision numbers as float32, others as they are."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


@contextmanager
def _exact_products() -> Iterator[None]:
    """Keep CUDA's float32 matrix products at float32: the terms nearly cancel, and TF32 has 10 bits."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
