"""Logits of rows of several domains: each row's own labels out of all outputs, in one operation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hrkd_cli.method import MASKED_LOGIT
from hrkd_cli.predict.heads import DomainHeads


class Columns:
    """Takes each row's own logits.

    Args:
        heads: outputs of the model.
        domains: in the order of the row numbers that ``take`` is given.
        device: where the logits are.
    """

    def __init__(self, heads: DomainHeads, domains: Sequence[str], device: torch.device) -> None:
        sizes = [len(heads.columns[domain]) for domain in domains]
        table = [[*heads.columns[d], *[0] * (max(sizes) - size)] for d, size in zip(domains, sizes, strict=True)]
        self.table = torch.tensor(table, device=device)  # (D, C)
        absent = torch.arange(max(sizes)) >= torch.tensor(sizes)[:, None]
        self.absent = absent.to(device) if bool(absent.any()) else None
        self.classes = max(sizes)

    def take(self, logits: Tensor, numbers: Tensor) -> Tensor:
        """Return (R, C) of (R, outputs): row r of domain ``numbers[r]``; MASKED_LOGIT where it has fewer than C."""
        own = logits.gather(1, self.table[numbers])
        return own if self.absent is None else own.masked_fill(self.absent[numbers], MASKED_LOGIT)
