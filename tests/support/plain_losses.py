"""Inputs for the losses, and the losses of a single domain written plainly (paper, section 3.1)."""

import torch
import torch.nn.functional as F

from hrkd_cli.method import LOSSES, LossInputs, MeanWeights, Outputs

COMPUTE = {loss.name: loss.compute for loss in LOSSES}


def mean_weights(lengths, tokens, *, padded=False, dtype=torch.float64):
    """Mean weights of a whole step, row by row; ``lengths`` has the lengths of each domain's rows."""
    rows = [(d, n) for d, domain in enumerate(lengths) for n in domain]
    one_hot = torch.zeros(len(lengths), len(rows), dtype=dtype)
    per_token = torch.zeros(len(rows), tokens, dtype=dtype)
    per_row, per_pair = torch.zeros(len(rows), dtype=dtype), torch.zeros(len(rows), dtype=dtype)
    mask = torch.zeros(len(rows), tokens, dtype=torch.bool)
    for r, (d, n) in enumerate(rows):
        one_hot[d, r] = 1
        count = len(lengths[d])
        per_row[r] = 1 / count
        mask[r, :n] = True
        per_token[r, : tokens if padded else n] = 1 / (count * tokens if padded else sum(lengths[d]))
        per_pair[r] = 1 / (count * tokens**2 if padded else sum(m * m for m in lengths[d]))
    return MeanWeights(one_hot, per_row, per_token, per_pair, None if padded else mask, mask)


# One row: of two tokens, and of one token and one of padding.
FULL, HALF = mean_weights([[2]], 2), mean_weights([[1]], 2)
HALF_PADDED = mean_weights([[1]], 2, padded=True)


def take(weights, rows):
    """The mean weights of some rows."""
    query_mask = None if weights.query_mask is None else weights.query_mask[rows]
    parts = (weights.per_row[rows], weights.per_token[rows], weights.per_pair[rows])
    return MeanWeights(weights.domain_one_hot[:, rows], *parts, query_mask, weights.key_mask[rows])


def loss_inputs(teacher, student, weights, *, labels=None, temperature=1.0, mean_classes=1.0, class_weights=None):
    """``teacher`` and ``student`` are Outputs, (queries, keys), hidden states (4 dimensions) or logits (2)."""
    sides = [side if isinstance(side, Outputs | None) else _outputs(side) for side in (teacher, student)]
    return LossInputs(*sides, weights, labels, temperature, mean_classes, class_weights)


def compute_loss(name, *args, **options):
    """Compute a loss; arguments are those of ``loss_inputs``."""
    return COMPUTE[name](loss_inputs(*args, **options)).squeeze().tolist()


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


def plain_domain(teacher, student, domain):
    """Domain logits (B, D) of rows of ``domain``."""
    truth = torch.zeros(student.shape[1], dtype=student.dtype)
    truth[domain] = 1
    targets = [(truth + row.softmax(dim=0)) / 2 for row in teacher]
    return -torch.stack([t @ row.log_softmax(dim=0) for t, row in zip(targets, student, strict=True)]).mean()


def plain_prototype(hidden, mask, *, padded=False):
    if padded:
        return hidden.mean(dim=(0, 1))
    return torch.where(mask[:, :, None], hidden, 0.0).sum(dim=(0, 1)) / mask.sum()
