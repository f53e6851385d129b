"""Batches for the losses, and what the losses mean: the plain losses of one domain (paper, section 3.1)."""

import torch
import torch.nn.functional as F

from hrkd_cli.method import LossInput, MeanWeights, Outputs


def weights_of(lengths, tokens, *, padded=False, dtype=torch.float64):
    """Mean weights of a whole step, written out row by row; ``lengths`` are those of each domain's rows."""
    rows = [(d, n) for d, domain in enumerate(lengths) for n in domain]
    domains = torch.zeros(len(lengths), len(rows), dtype=dtype)
    per_token = torch.zeros(len(rows), tokens, dtype=dtype)
    per_row, pairs = torch.zeros(len(rows), dtype=dtype), torch.zeros(len(rows), dtype=dtype)
    keys = torch.zeros(len(rows), tokens, dtype=torch.bool)
    for r, (d, n) in enumerate(rows):
        domains[d, r] = 1
        count = len(lengths[d])
        per_row[r] = 1 / count
        keys[r, :n] = True
        per_token[r, : tokens if padded else n] = 1 / (count * tokens if padded else sum(lengths[d]))
        pairs[r] = 1 / (count * tokens**2 if padded else sum(m * m for m in lengths[d]))
    return MeanWeights(domains, per_row, per_token, pairs, None if padded else keys, keys)


def take(weights, rows):
    """The mean weights of some rows."""
    queries = None if weights.queries is None else weights.queries[rows]
    parts = (weights.rows[rows], weights.tokens[rows], weights.pairs[rows])
    return MeanWeights(weights.domains[:, rows], *parts, queries, weights.keys[rows])


def given(teacher, student, weights, *, labels=None, temperature=1.0, mean_classes=1.0, class_weights=None):
    """What a loss gets; sides are Outputs or (queries, keys), or hidden states, or logits by their dimensions."""
    sides = [side if isinstance(side, Outputs) else _outputs(side) for side in (teacher, student)]
    return LossInput(*sides, weights, labels, temperature, mean_classes, class_weights)


def _outputs(side):
    if isinstance(side, tuple):
        return Outputs(None, *side, None)
    return Outputs(None, None, None, side) if side.dim() == 2 else Outputs(side, None, None, None)


def masked_mean(values, mask):
    return torch.where(mask, values, 0.0).sum() / mask.sum()


def plain_hidden(teacher, student, mask, *, padded=False):
    """``teacher`` and ``student`` (B, T, H), ``mask`` (B, T)."""
    squares = (teacher - student).square()
    return squares.mean() if padded else masked_mean(squares.mean(dim=-1), mask)


def plain_attention(teacher, student, mask, *, padded=False):
    """Scores (B, A, T, T), queries by keys; scores at padded keys count as equal."""
    squares = torch.where(mask[:, None, None, :], teacher - student, 0.0).square()
    return squares.mean() if padded else masked_mean(squares.mean(dim=1), mask[:, :, None] & mask[:, None, :])


def plain_prediction(teacher, student, *, temperature=1.0, mean_classes):
    terms = -F.softmax(teacher / temperature, dim=-1) * F.log_softmax(student / temperature, dim=-1)
    return terms.sum(dim=-1).mean() / mean_classes


def plain_prototype(hidden, mask, *, padded=False):
    if padded:
        return hidden.mean(dim=(0, 1))
    return torch.where(mask[:, :, None], hidden, 0.0).sum(dim=(0, 1)) / mask.sum()
