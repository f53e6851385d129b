"""Out of the outputs of all domains: the logits of each row's own domain, and the logits of the domains."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hrkd_cli.method import MASKED_LOGIT
from hrkd_cli.method.model_outputs import upcast
from hrkd_cli.predict.heads import DomainHeads


class LabelGather:
    """Gathers the logits of each row's domain from all outputs, in one operation.

    Attributes:
        no_head: (D,), whether the model has no outputs for the domain; None if it has some for every domain.
    """

    def __init__(self, heads: DomainHeads, device: torch.device) -> None:
        columns = [torch.tensor(heads.columns[domain], dtype=torch.long) for domain in heads.domains]
        no_head = torch.tensor([not len(own) for own in columns])
        self.no_head = no_head.to(device) if bool(no_head.any()) else None
        self.with_head = torch.nonzero(~no_head)[:, 0].to(device)
        padded = torch.nn.utils.rnn.pad_sequence(columns, batch_first=True, padding_value=-1)
        self.absent = (padded < 0).to(device)  # (D, C)
        self.columns = padded.clamp_min(0).to(device)  # (D, C)
        self.classes = padded.shape[1]

    def take(self, logits: Tensor, domains: Tensor) -> Tensor:
        """Return (R, C) logits of (R, outputs): row r for domain ``domains[r]``; MASKED_LOGIT beyond its labels."""
        return logits.gather(1, self.columns[domains]).masked_fill(self.absent[domains], MASKED_LOGIT)

    def domain_logits(self, logits: Tensor) -> Tensor:
        """Return (R, D) of (R, outputs): for each domain, the logsumexp of its outputs.

        The softmax over domains is the sum of the domain's probabilities in a softmax over all outputs.
        """
        return self.by_domain(logits).logsumexp(dim=-1)

    def by_domain(self, logits: Tensor) -> Tensor:
        """Return (R, D, C) of (R, outputs): the logits of all domains; MASKED_LOGIT beyond a domain's labels."""
        return upcast(logits)[:, self.columns].masked_fill(self.absent, MASKED_LOGIT)

    def mixture(self, logits: Tensor, *, posterior: bool) -> Tensor:
        """Return (R, C) of (R, outputs): the log of the mean of all heads' label probabilities.

        All heads have the same labels. Their weights are the domain posterior if the softmax over all outputs is
        p(domain, label | text), else equal.
        """
        by_domain = upcast(logits)[:, self.columns[self.with_head]]  # (R, domains, C)
        if posterior:
            return by_domain.flatten(1).log_softmax(dim=-1).view_as(by_domain).logsumexp(dim=1)
        return by_domain.log_softmax(dim=-1).logsumexp(dim=1) - math.log(len(self.with_head))
