"""What the losses look at: outputs of teacher and student for the rows of a step, these rows' labels and weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MASKED_LOGIT = -1e4  # of a class that a domain does not have: its probability is exactly 0, and nothing becomes NaN


@dataclass(frozen=True, slots=True)
class Outputs:
    """Outputs of the teacher or the student for R rows of all domains, padded to T tokens.

    Attributes:
        hidden: (L+1, R, T, width), embedding output first, the teacher's at its matched layers; None when hidden states
            are not compared.
        queries: (L, R, A, T, d), already divided by sqrt(d); None when attention is not compared.
        keys: as ``queries``.
        logits: (R, C), each row's own labels, ``MASKED_LOGIT`` where its domain has fewer than C.
    """

    hidden: Tensor | None
    queries: Tensor | None
    keys: Tensor | None
    logits: Tensor


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of a step's rows.

    Attributes:
        targets: (R,), each row's label among those of its domain; anything where it has none.
        rows: (R,), weight of each row in the label loss of its domain: 1 / labelled rows; 0 where it has no label.
    """

    targets: Tensor
    rows: Tensor


@dataclass(frozen=True, slots=True)
class MeanWeights:
    """Weight of each row, token and query-key pair in its domain's means, for R rows padded to T tokens.

    They are known before anything runs (they depend on lengths, and on weights of single rows where there are some), so
    the losses of a part of a step's rows add up with those of the other parts to the losses of the whole step. With
    weights of single rows, each of them is the row's weight over the domain's sum of weights times rows, tokens or
    pairs.

    Attributes:
        domains: (D, R), 1 where the row is of the domain.
        rows: (R,), 1 / rows of the row's domain.
        tokens: (R, T), 1 / tokens of the domain; 0 at tokens that do not count.
        pairs: (R,), 1 / query-key pairs of the domain.
        queries: (R, T), true at tokens that count, also as queries; None where all do.
        keys: (R, T), true at keys that are not padding; None where none is.
    """

    domains: Tensor
    rows: Tensor
    tokens: Tensor
    pairs: Tensor
    queries: Tensor | None
    keys: Tensor | None

    def by_domain(self, values: Tensor) -> Tensor:
        """Add up values of rows, (..., R), by domain: (..., D)."""
        return values @ self.domains.T


def upcast(tensor: Tensor) -> Tensor:
    """Return half-precision numbers as float32, others as they are."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def clear(values: Tensor, counted: Tensor, *, out: Tensor) -> None:
    """Write ``values`` into ``out``, 0 where they do not count, whatever stands there."""
    if values.dtype is torch.bfloat16:  # masks bits: torch.where takes ten times as long
        torch.bitwise_and(values.view(torch.int16), -counted.to(torch.int16), out=out.view(torch.int16))
    elif out is values:
        out.masked_fill_(~counted, 0.0)
    else:
        torch.where(counted, values, values.new_zeros(()), out=out)
