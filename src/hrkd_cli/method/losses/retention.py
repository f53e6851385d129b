"""Divergence of the student's answers from those of the student that it extends, in all domains of the latter."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from hrkd_cli.method.losses import Loss, LossInputs, Requirement
from hrkd_cli.method.model_outputs import upcast


def retention_loss(inputs: LossInputs) -> Tensor:
    """Return ``sum_k KL(softmax(before[k] / t), softmax(now[k] / t))``, the mean over each domain's rows, (D,).

    k are the old domains, and ``before`` and ``now`` the logits of both students for them. Each row, of whatever
    domain, is a text on which they are compared ("Learning without Forgetting", Li and Hoiem, 2016).
    """
    assert inputs.old_domains is not None
    before, now = (F.log_softmax(upcast(logits) / inputs.temperature, dim=-1) for logits in inputs.old_domains)
    per_row = (before.exp() * (before - now)).sum(dim=(1, 2))
    return inputs.weights.sum_by_domain(per_row * inputs.weights.per_row)


LOSS = Loss("retention", frozenset({Requirement.OLD_DOMAINS}), retention_loss)
