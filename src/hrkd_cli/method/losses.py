"""The losses of one domain's batch (paper, section 3.1; TinyBERT's losses with the attention scores before softmax).

``mask`` is (B, T), true at valid tokens. With ``padded=True`` the means run over padded positions too, as in the
released code; by default they run over valid tokens, so that padding a batch further changes nothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def hidden_loss(teacher: Tensor, student: Tensor, mask: Tensor, *, padded: bool = False) -> Tensor:
    """Mean squared difference of hidden states.

    Args:
        teacher: (B, T, H).
        student: (B, T, H), already projected to the teacher's width.
        mask: (B, T), true at valid tokens.
        padded: average over padded positions too.

    Returns:
        Scalar: sum of squares over valid tokens, divided by (valid tokens x H).
    """
    squares = (teacher - student).square()
    if padded:
        return squares.mean()
    return _masked_mean(squares.mean(dim=-1), mask)


def attention_loss(teacher: Tensor, student: Tensor, mask: Tensor, *, padded: bool = False) -> Tensor:
    """Mean squared difference of attention scores QK^T / sqrt(head width), before softmax.

    Args:
        teacher: (B, A, T, T), queries by keys. What stands at padded keys does not matter.
        student: (B, A, T, T).
        mask: (B, T), true at valid tokens.
        padded: average over all T x T positions, the scores at padded keys counting as equal.

    Returns:
        Scalar: sum of squares over valid query-key pairs, divided by (valid pairs x A).
    """
    keys = mask[:, None, None, :]  # (B, 1, 1, T)
    # Masked before squaring: a score at a padded key may be -10000 or worse, and its gradient must be exactly 0.
    squares = torch.where(keys, teacher - student, 0.0).square()
    if padded:
        return squares.mean()
    pairs = mask[:, :, None] & mask[:, None, :]  # (B, T, T)
    return _masked_mean(squares.mean(dim=1), pairs)


def prediction_loss(
    teacher: Tensor,
    student: Tensor,
    *,
    temperature: float = 1.0,
    mean_classes: float | None = None,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Soft cross-entropy of the student against the teacher, both at ``temperature``.

    The sum over classes is divided by the number of classes (as in the released code, which averages over B and C), and
    there is no temperature**2 factor.

    Args:
        teacher: (B, C) logits.
        student: (B, C) logits.
        temperature: both logits are divided by it.
        mean_classes: divisor of the sum over classes; where domains have label sets of different sizes it is their mean
            size, else (None) it is C.
        class_weights: (C,) factors of the classes' terms.

    Returns:
        Scalar.
    """
    terms = -F.softmax(teacher / temperature, dim=-1) * F.log_softmax(student / temperature, dim=-1)
    if class_weights is not None:
        terms = terms * class_weights
    return terms.sum(dim=-1).mean() / (terms.shape[-1] if mean_classes is None else mean_classes)


def prototype(hidden: Tensor, mask: Tensor, *, padded: bool = False) -> Tensor:
    """Mean hidden state of a domain's batch (paper, section 3.2).

    Args:
        hidden: (B, T, H), projected student states of one layer.
        mask: (B, T), true at valid tokens.
        padded: average over padded positions too.

    Returns:
        (H,).
    """
    if padded:
        return hidden.mean(dim=(0, 1))
    return torch.where(mask[:, :, None], hidden, 0.0).sum(dim=(0, 1)) / mask.sum()


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``values`` where ``mask`` (same shape) is true; 0, not NaN, where nothing is valid."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)
