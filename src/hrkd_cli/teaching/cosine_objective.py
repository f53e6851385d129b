"""Fine-tuning on cosine similarities, for few train rows.

Cross-entropy on few rows is soon zero, with features that fit the noise of these rows. Similarities are bounded, and
domains that share label names learn together, so the encoder keeps more of what it knows. It is the normalized softmax
of metric learning ("Classification is a Strong Baseline for Deep Metric Learning", Zhai and Wu, BMVC 2019).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from hrkd_cli.models.loading import output_layer
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.settings import TrainingSettings
from hrkd_cli.teaching.fine_tuning import FineTuningObjective
from hrkd_cli.teaching.linear_probe import fit_heads, head_inputs, without_output_layer
from hrkd_cli.training.collator import TrainBatch
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.tokenized_split import TokenizedSplit

TEMPERATURE = 0.1


class CosineObjective(FineTuningObjective):
    """The sum over domains of the mean cross-entropy of similarities / ``TEMPERATURE``.

    A row has one similarity for each label name of all domains: the cosine of the inputs of the output layer and the
    label's vector. The vectors are trained too, and start from the mean direction of the label's rows. The output layer
    is not trained, but fitted before each dev score.
    """

    def __init__(
        self,
        model: nn.Module,
        train: TokenizedSplit,
        heads: DomainHeads,
        settings: TrainingSettings,
        context: TrainContext,
    ) -> None:
        super().__init__(model, train, heads, settings, context)
        self.loss_weights = {"label": 1.0}
        names = sorted({name for own in heads.labels.values() for name in own})
        indices = [torch.tensor([names.index(name) for name in own]) for own in heads.labels.values()]
        self.label_names = pad_sequence(indices, batch_first=True).to(context.device)  # (D, C)
        _, layer = output_layer(model)
        layer.requires_grad_(False)
        self.label_vectors = nn.Linear(layer.in_features, len(names), bias=False).to(context.device)
        self._start_from_means(train, context)
        self.modules.append(self.label_vectors)

    def before_scoring(self) -> None:
        """Fit the heads to the encoder."""
        split, context = self.collator.split, self.collator.context
        fit_heads(self.modules[0], split, self.heads, context, self.class_weights)

    def _start_from_means(self, train: TokenizedSplit, context: TrainContext) -> None:
        """Set each label's vector to the mean of its normalized train rows."""
        weight = torch.zeros(self.label_vectors.weight.shape, dtype=torch.float64)  # on the CPU: MPS has no float64
        for number, (domain, rows) in enumerate(head_inputs(self.modules[0], train, context).items()):
            names = self.label_names[number].cpu()[train.labels[domain]]
            weight.index_add_(0, names, F.normalize(rows))
        with torch.no_grad():
            self.label_vectors.weight.copy_(F.normalize(weight))

    def _logits_and_targets(self, bucket: TrainBatch) -> list[tuple[Tensor, Tensor]]:
        """Return similarities / ``TEMPERATURE``, (R, label names), and the index of each row's name."""
        with without_output_layer(self.modules[0]):
            features = self.capture(bucket.tokens).logits.float()
        similarities = F.normalize(features) @ F.normalize(self.label_vectors.weight).T
        return [(similarities / TEMPERATURE, self.label_names[bucket.domains, bucket.labels.targets])]
