"""What the losses are computed from: model outputs, labels, and the weights of rows and tokens in the means."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MASKED_LOGIT = -1e4  # of a class that a domain lacks: its probability is exactly 0, and no NaN can arise


@dataclass(frozen=True, slots=True)
class Outputs:
    """Outputs of the teacher or the student for R rows of all domains, padded to T tokens.

    Attributes:
        hidden: (L+1, R, T, width), embedding output first; the teacher's at its matched layers. None if hidden states
            are not compared.
        queries: (L, R, A, T, d), already divided by sqrt(d); None if attention is not compared.
        keys: (L, R, A, T, d); None if attention is not compared.
        logits: (R, C), for the labels of each row's domain; ``MASKED_LOGIT`` where the domain has fewer than C.
        domain_logits: (R, D), whose softmax is the domain posterior; None if the model has none or no loss needs it.
    """

    hidden: Tensor | None
    queries: Tensor | None
    keys: Tensor | None
    logits: Tensor
    domain_logits: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels of R rows.

    Attributes:
        targets: (R,), index of each row's label within its domain; undefined for rows without a label.
        weights: (R,), weight of each row in its domain's label loss: 1 / labeled rows; 0 for rows without a label.
    """

    targets: Tensor
    weights: Tensor


@dataclass(frozen=True, slots=True)
class MeanWeights:
    """Weight of each row, token and query-key pair in its domain's means, for R rows padded to T tokens.

    The weights depend only on the lengths of all rows of the step, and on instance weights if there are any. So they
    are known before the models run, and the losses of parts of a step add up to the losses of the whole step. With
    instance weights w_i, each weight is w_i divided by the sum of w_i over the domain's rows, tokens or pairs.

    Attributes:
        domain_one_hot: (D, R), 1 if the row belongs to the domain.
        per_row: (R,), 1 / rows of the row's domain.
        per_token: (R, T), 1 / tokens of the row's domain; 0 at masked tokens.
        per_pair: (R,), 1 / query-key pairs of the row's domain.
        query_mask: (R, T), true at tokens that the means include; None if they include all.
        key_mask: (R, T), true at tokens that are not padding; None if there is no padding.
    """

    domain_one_hot: Tensor
    per_row: Tensor
    per_token: Tensor
    per_pair: Tensor
    query_mask: Tensor | None
    key_mask: Tensor | None

    def sum_by_domain(self, per_row: Tensor) -> Tensor:
        """Sum values per row, (..., R), over the rows of each domain, (..., D)."""
        return per_row @ self.domain_one_hot.T


def upcast(tensor: Tensor) -> Tensor:
    """Convert half precision to float32; return other tensors unchanged."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def masked_copy(values: Tensor, mask: Tensor, *, out: Tensor) -> None:
    """Copy ``values`` to ``out``, with 0 where ``mask`` is false, even if the value there is NaN."""
    if values.dtype is torch.bfloat16:  # masks the bits: torch.where takes ten times as long
        torch.bitwise_and(values.view(torch.int16), -mask.to(torch.int16), out=out.view(torch.int16))
    elif out is values:
        out.masked_fill_(~mask, 0.0)
    else:
        torch.where(mask, values, values.new_zeros(()), out=out)
