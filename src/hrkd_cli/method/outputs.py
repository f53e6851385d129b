"""What the losses compare: outputs of teacher and student for the rows of a step, and the labels of these rows."""

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
