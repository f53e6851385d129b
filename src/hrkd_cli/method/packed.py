"""The losses of a whole step at once: rows of all domains side by side, each with its share in its domain's mean.

The same numbers as ``domain_terms`` gives domain by domain, in a handful of large operations. Shares are known before
anything runs (they depend on lengths, and on weights of single rows where there are some), so a part of the rows gives
a part of every mean: what several processes find for their own rows adds up to the terms of the whole batch.

Hidden states are compared token by token, in whatever order they stand; attention scores in groups of rows, each padded
to its longest.

Shapes: R rows of all domains, N places of tokens (R T where all rows are padded to T, else their tokens alone), D
domains, R' rows of a group padded to T', the other letters as in ``hrkd_cli.method``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hrkd_cli.method.gaps import gram_gap, score_gap, short_score_gap, state_gap, wide
from hrkd_cli.method.objective import BatchTerms, Projections

ABSENT = -1e4  # logit of a class that a domain has not: its probability is exactly 0, and nothing becomes NaN


@dataclass(frozen=True, slots=True)
class Grid:
    """What the query-key pairs of a group of rows count for.

    Attributes:
        rows: which rows of the step.
        pairs: (R',), 1 / query-key pairs of the row's domain.
        queries: (R', T'), true at queries that count; None where all do.
        keys: (R', T'), true at keys that are not padding; None where none is.
    """

    rows: slice
    pairs: Tensor
    queries: Tensor | None
    keys: Tensor | None


@dataclass(frozen=True, slots=True)
class Shares:
    """What each row and token counts for in the means of its domain.

    With weights of single rows all shares are the row's weight, over the domain's sum of weights times rows, tokens or
    pairs.

    Attributes:
        domains: (D, R), 1 where the row is of the domain.
        rows: (R,), 1 / rows of the row's domain.
        tokens: (D, N), 1 / tokens of the domain at its tokens that count, else 0.
        counted: (N,), true at tokens that count; None where all do.
        grids: the groups that attention scores are compared in.
    """

    domains: Tensor
    rows: Tensor
    tokens: Tensor
    counted: Tensor | None
    grids: tuple[Grid, ...]

    @classmethod
    def padded(
        cls, domains: Tensor, rows: Tensor, tokens: Tensor, pairs: Tensor, queries: Tensor | None, keys: Tensor | None
    ) -> Shares:
        """Return the shares of rows that are all padded to T tokens; ``tokens`` (R, T), the others as in a grid."""
        counted = None if queries is None else queries.flatten()
        grid = Grid(slice(0, len(rows)), pairs, queries, keys)
        return cls(domains, rows, (domains[:, :, None] * tokens).flatten(1), counted, (grid,))


@dataclass(frozen=True, slots=True)
class TeacherSignals:
    """What the teachers show on a step's rows.

    Attributes:
        hidden: (L+1, R, T, H) or (L+1, 1, N, H) at the matched layers, embedding first; None when only logits are
            compared.
        queries: (L, R', A, T', d) of each grid, already divided by sqrt(d); None when attention is left out.
        keys: as ``queries``.
        logits: (R, C), each row's own labels, ``ABSENT`` where its domain has fewer than C.
    """

    hidden: Tensor | None
    queries: tuple[Tensor, ...] | None
    keys: tuple[Tensor, ...] | None
    logits: Tensor


@dataclass(frozen=True, slots=True)
class StudentSignals:
    """What the student shows.

    Attributes:
        hidden: as the teacher's, of width h; None when only logits are compared.
        projected: the same at the teacher's width.
        queries: (L, R', A, T', d) of each grid, already divided by sqrt(d); None when attention is left out.
        keys: as ``queries``.
        logits: (R, C), as the teacher's.
    """

    hidden: Tensor | None
    projected: Tensor | None
    queries: tuple[Tensor, ...] | None
    keys: tuple[Tensor, ...] | None
    logits: Tensor


@dataclass(frozen=True, slots=True)
class Labels:
    """The right answers of a step's rows.

    Attributes:
        targets: (R,), each row's label among those of its domain; anything where it has none.
        rows: (R,), 1 / labelled rows of the row's domain; 0 where it has no label.
    """

    targets: Tensor
    rows: Tensor


def packed_terms(
    teacher: TeacherSignals,
    student: StudentSignals,
    shares: Shares,
    projections: Projections | None,
    *,
    temperature: float = 1.0,
    mean_classes: float,
    class_weights: Tensor | None = None,
    labels: Labels | None = None,
    prototypes: bool = True,
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
        labels: what the label loss is taken against; None for no label loss.
        prototypes: whether anyone looks at them; they have width 0 otherwise.

    Returns:
        The terms of all domains; of the whole batch when the shares of the rows add up to 1 in every domain.
    """
    cross = _cross_entropy(teacher.logits, student.logits, temperature, class_weights)
    prediction = shares.domains @ (cross * shares.rows) / mean_classes  # (D,)
    label = None if labels is None else label_terms(student.logits, labels, shares.domains, class_weights)
    if student.hidden is None or student.projected is None or teacher.hidden is None:
        none = prediction.new_zeros((0, len(prediction)))
        return BatchTerms(none, none, prediction, none[..., None], label)
    gaps = state_gap(_by_token(teacher.hidden), _by_token(student.projected), shares.tokens, shares.counted)
    hidden = gaps / teacher.hidden.shape[-1]  # (L+1, D)
    attention = torch.zeros_like(hidden)
    if student.queries is not None and student.keys is not None:
        parts = [_attention_terms(teacher, student, shares, number) for number in range(len(shares.grids))]
        attention = torch.cat([torch.zeros_like(hidden[:1]), sum(parts[1:], parts[0])])
    if not prototypes:
        return BatchTerms(hidden, attention, prediction, hidden.new_zeros((*hidden.shape, 0)), label)
    # The mean state of each domain, (L+1, D, h). A projection of a mean is the mean of projections.
    means = shares.tokens @ wide(_by_token(student.hidden))
    if projections is not None:
        # The bias counts as often as there are rows here.
        present = shares.tokens.sum(dim=1)[:, None]
        means = means @ projections.weight.mT + present * projections.bias[:, None, :]
    return BatchTerms(hidden, attention, prediction, means, label)


def _by_token(states: Tensor) -> Tensor:
    """Return (L+1, ..., H) as (L+1, N, H)."""
    return states.flatten(1, -2)


def _cross_entropy(teacher: Tensor, student: Tensor, temperature: float, class_weights: Tensor | None) -> Tensor:
    """Soft cross-entropy of each row, (R,), summed over classes."""
    terms = -F.softmax(wide(teacher) / temperature, dim=-1) * F.log_softmax(wide(student) / temperature, dim=-1)
    return (terms if class_weights is None else terms * class_weights).sum(dim=-1)


def label_terms(logits: Tensor, labels: Labels, domains: Tensor, class_weights: Tensor | None) -> Tensor:
    """Return the mean cross-entropy of each domain's labelled rows, (D,).

    Args:
        logits: (R, C), the student's.
        labels: see Labels.
        domains: (D, R), 1 where the row is of the domain.
        class_weights: (R, C).
    """
    targets = labels.targets.clamp_min(0)
    cross = F.cross_entropy(wide(logits), targets, reduction="none")
    if class_weights is not None:
        cross = cross * class_weights.gather(1, targets[:, None])[:, 0]
    return domains @ (cross * labels.rows)


def _cleared(query: Tensor, key: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Return queries and keys, (L, R', A, T', d), as zeros where they do not count."""
    if grid.keys is not None:
        key = torch.where(grid.keys[:, None, :, None], key, 0.0)
    if grid.queries is not None:
        query = torch.where(grid.queries[:, None, :, None], query, 0.0)
    return query, key


def merge_heads(tensor: Tensor, groups: int) -> Tensor:
    """Return queries or keys (L, R, A, T, d) as those of ``groups`` relations, (L, R, groups, T, A d / groups).

    A relation's scores are the sum of those of the heads that it is made of, neighbours: what models with different
    numbers of heads can be compared by.
    """
    layers, rows, heads, tokens, width = tensor.shape
    if heads == groups:
        return tensor
    split = tensor.view(layers, rows, groups, heads // groups, tokens, width)
    return split.transpose(3, 4).reshape(layers, rows, groups, tokens, -1)


def _attention_terms(teacher: TeacherSignals, student: StudentSignals, shares: Shares, number: int) -> Tensor:
    """A grid's part of the attention loss, (L, D): squared differences of attention scores, the mean over heads.

    Where the numbers of heads differ, relations are compared, as many as both can be split into. Their scores, sums
    over the heads in one, are divided by the square root of how many these are, as if it were one wide head.
    """
    assert teacher.queries is not None
    assert teacher.keys is not None
    assert student.queries is not None
    assert student.keys is not None
    grid = shares.grids[number]
    own, theirs = student.queries[number], teacher.queries[number]
    heads = {"student": own.shape[2], "teacher": theirs.shape[2]}
    groups = math.gcd(*heads.values())
    found = [merge_heads(t, groups) for t in (own, student.keys[number], theirs, teacher.keys[number])]
    for place, side in ((0, "student"), (2, "teacher")):
        if heads[side] != groups:
            found[place] = found[place] * (groups / heads[side]) ** 0.5
    gaps = _relation_gaps(found, grid) / groups  # (L, R')
    return (gaps * grid.pairs) @ shares.domains[:, grid.rows].T


def _relation_gaps(found: list[Tensor], grid: Grid) -> Tensor:
    """Squared differences summed over relations, (L, R'), of [query, key, teacher's query, teacher's key]."""
    if all(t.dtype is torch.bfloat16 for t in found):
        query, key, teacher_query, teacher_key = found
        return short_score_gap(teacher_query, teacher_key, query, key, grid.queries, grid.keys)
    query, key, teacher_query, teacher_key = (wide(t) for t in found)
    query, key = _cleared(query, key, grid)
    teacher_query, teacher_key = _cleared(teacher_query, teacher_key, grid)
    tokens, own, theirs = query.shape[-2], query.shape[-1], teacher_query.shape[-1]
    # Multiplications a token, forward and backward: Gram matrices against the T x T scores.
    grams, scores = 4 * own * (own + theirs) + 2 * theirs * theirs, tokens * (theirs + 3 * own)
    return (score_gap if scores <= grams else gram_gap)(teacher_query, teacher_key, query, key)
