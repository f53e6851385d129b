"""Fine-tuning of all domains together, with one head per domain (paper, section 4.1)."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hrkd_cli.models.feature_capture import FeatureCapture
from hrkd_cli.models.label_gather import LabelGather
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.settings import TrainingSettings
from hrkd_cli.training.collator import Collator, TrainBatch
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.loop import LossOutput, Objective
from hrkd_cli.training.tokenized_split import TokenizedSplit


class FineTuningObjective(Objective):
    """The sum over domains of the mean cross-entropy of the domain's rows in a step, with their labels and domains."""

    is_additive = True

    def __init__(
        self, model: Any, train: TokenizedSplit, heads: DomainHeads, settings: TrainingSettings, context: TrainContext
    ) -> None:
        self.modules, self.heads = [model], heads
        self.capture = FeatureCapture(model, (), attention=False)
        self.label_gather = LabelGather(heads, context.device)
        weights = train.class_weights(heads, settings.class_weights)
        self.class_weights = None if weights is None else weights.to(context.device)  # (D, C)
        self.collator = Collator(train, context)
        self.loss_weights = {"label": 1.0}
        self.domain_posterior = settings.domain_weight > 0 and len(heads.domains) > 1
        if self.domain_posterior:
            self.loss_weights["domain"] = settings.domain_weight

    def loss(self, batch: Sequence[TrainBatch]) -> LossOutput:
        """Return the loss of one step's rows, given as length buckets."""
        local = reduce(operator.add, map(self._bucket_losses, batch))
        losses = self.collator.context.processes.all_reduce(local)
        terms = {name: w * loss for (name, w), loss in zip(self.loss_weights.items(), losses, strict=True)}
        return LossOutput(reduce(operator.add, terms.values()), terms if len(terms) > 1 else {})

    def _bucket_losses(self, bucket: TrainBatch) -> Tensor:
        """Return each loss, summed over the bucket's rows."""
        pairs = self._logits_and_targets(bucket)
        per_row = torch.stack([F.cross_entropy(*pair, reduction="none") for pair in pairs])
        if self.class_weights is not None:
            per_row[0] *= self.class_weights[bucket.domains, bucket.labels.targets]
        return (per_row * bucket.labels.weights).sum(dim=-1)

    def _logits_and_targets(self, bucket: TrainBatch) -> list[tuple[Tensor, Tensor]]:
        """Return what the cross-entropies are computed from: of the label and, if it has a weight, of the domain."""
        logits = self.capture(bucket.tokens).logits.float()
        pairs = [(self.label_gather.take(logits, bucket.domains), bucket.labels.targets)]
        if self.domain_posterior:
            pairs.append((self.label_gather.domain_logits(logits), bucket.domains))
        return pairs
