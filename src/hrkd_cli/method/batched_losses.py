"""The losses of a batch with rows of all domains, each with its share in its domain's mean.

The same numbers as ``domain_terms`` gives domain by domain, in a handful of large operations. Shares are known before
anything runs (they depend on lengths, and on weights of single rows where there are some), so a part of the rows gives
a part of every mean: the terms of several processes, or of several length buckets, add up to those of the whole batch.

Shapes: R rows of all domains, padded to T tokens, D domains, the other letters as in ``hrkd_cli.method``.
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
class Shares:
    """What each row and token counts for in the means of its domain.

    With weights of single rows all shares are the row's weight, over the domain's sum of weights times rows, tokens or
    pairs.

    Attributes:
        domains: (D, R), 1 where the row is of the domain.
        rows: (R,), 1 / rows of the row's domain.
        tokens: (R, T), 1 / tokens of the row's domain at tokens that count, else 0.
        pairs: (R,), 1 / query-key pairs of the row's domain.
        counted: (R, T), true at tokens that count, as queries too; None where all do.
        keys: (R, T), true at keys that are not padding; None where none is.
    """

    domains: Tensor
    rows: Tensor
    tokens: Tensor
    pairs: Tensor
    counted: Tensor | None
    keys: Tensor | None


@dataclass(frozen=True, slots=True)
class TeacherSignals:
    """Teacher outputs for one batch.

    Attributes:
        hidden: (L+1, R, T, H) at the matched layers, embedding first; None when only logits are compared.
        queries: (L, R, A, T, d), already divided by sqrt(d); None when attention is left out.
        keys: as ``queries``.
        logits: (R, C), each row's own labels, ``ABSENT`` where its domain has fewer than C.
    """

    hidden: Tensor | None
    queries: Tensor | None
    keys: Tensor | None
    logits: Tensor


@dataclass(frozen=True, slots=True)
class StudentSignals:
    """Student outputs for one batch.

    Attributes:
        hidden: as the teacher's, of width h; None when only logits are compared.
        projected: the same at the teacher's width.
        queries: (L, R, A, T, d), already divided by sqrt(d); None when attention is left out.
        keys: as ``queries``.
        logits: (R, C), as the teacher's.
    """

    hidden: Tensor | None
    projected: Tensor | None
    queries: Tensor | None
    keys: Tensor | None
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


def batch_terms(
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
    """Compare teachers and student on one batch.

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
    tokens = (shares.domains[:, :, None] * shares.tokens).flatten(1)  # (D, R T)
    counted = None if shares.counted is None else shares.counted.flatten()
    gaps = state_gap(teacher.hidden.flatten(1, 2), student.projected.flatten(1, 2), tokens, counted)
    hidden = gaps / teacher.hidden.shape[-1]  # (L+1, D)
    attention = torch.zeros_like(hidden)
    if student.queries is not None:
        attention = torch.cat([torch.zeros_like(hidden[:1]), _attention_terms(teacher, student, shares)])
    if not prototypes:
        return BatchTerms(hidden, attention, prediction, hidden.new_zeros((*hidden.shape, 0)), label)
    # The mean state of each domain, (L+1, D, h). A projection of a mean is the mean of projections.
    means = tokens @ wide(student.hidden.flatten(1, 2))
    if projections is not None:
        # The bias counts as often as there are rows here.
        present = tokens.sum(dim=1)[:, None]
        means = means @ projections.weight.mT + present * projections.bias[:, None, :]
    return BatchTerms(hidden, attention, prediction, means, label)


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


def _cleared(query: Tensor, key: Tensor, shares: Shares) -> tuple[Tensor, Tensor]:
    """Return queries and keys, (L, R, A, T, d), as zeros where they do not count."""
    if shares.keys is not None:
        key = torch.where(shares.keys[:, None, :, None], key, 0.0)
    if shares.counted is not None:
        query = torch.where(shares.counted[:, None, :, None], query, 0.0)
    return query, key


def merge_heads(tensor: Tensor, relations: int) -> Tensor:
    """Return queries or keys (L, R, A, T, d) as those of so many relations, (L, R, relations, T, A d / relations).

    A relation's scores are the sum of those of the heads that it is made of, neighbours: what models with different
    numbers of heads can be compared by.
    """
    layers, rows, heads, tokens, width = tensor.shape
    if heads == relations:
        return tensor
    split = tensor.view(layers, rows, relations, heads // relations, tokens, width)
    return split.transpose(3, 4).reshape(layers, rows, relations, tokens, -1)


def _attention_terms(teacher: TeacherSignals, student: StudentSignals, shares: Shares) -> Tensor:
    """The attention loss, (L, D): squared differences of attention scores, the mean over heads.

    Where the numbers of heads differ, relations are compared, as many as both can be split into. Their scores, sums
    over the heads in one, are divided by the square root of how many these are, as if it were one wide head.
    """
    assert teacher.queries is not None
    assert teacher.keys is not None
    assert student.queries is not None
    assert student.keys is not None
    heads = {"student": student.queries.shape[2], "teacher": teacher.queries.shape[2]}
    relations = math.gcd(*heads.values())
    found = [merge_heads(t, relations) for t in (student.queries, student.keys, teacher.queries, teacher.keys)]
    for place, side in ((0, "student"), (2, "teacher")):
        if heads[side] != relations:
            found[place] = found[place] * (relations / heads[side]) ** 0.5
    gaps = _relation_gaps(found, shares) / relations  # (L, R)
    return (gaps * shares.pairs) @ shares.domains.T


def _relation_gaps(found: list[Tensor], shares: Shares) -> Tensor:
    """Squared differences summed over relations, (L, R), of [query, key, teacher's query, teacher's key]."""
    if all(t.dtype is torch.bfloat16 for t in found):
        query, key, teacher_query, teacher_key = found
        return short_score_gap(teacher_query, teacher_key, query, key, shares.counted, shares.keys)
    query, key, teacher_query, teacher_key = (wide(t) for t in found)
    query, key = _cleared(query, key, shares)
    teacher_query, teacher_key = _cleared(teacher_query, teacher_key, shares)
    tokens, own, theirs = query.shape[-2], query.shape[-1], teacher_query.shape[-1]
    # Multiplications a token, forward and backward: Gram matrices against the T x T scores.
    grams, scores = 4 * own * (own + theirs) + 2 * theirs * theirs, tokens * (theirs + 3 * own)
    return (score_gap if scores <= grams else gram_gap)(teacher_query, teacher_key, query, key)
