"""Linear probe of a pretrained encoder: chooses its pooling, and gives its heads their first weights.

Fine-tuning then starts from logistic regression on the frozen encoder instead of random heads, which helps most where
rows are few ("Fine-Tuning can Distort Pretrained Features", Kumar et al., ICLR 2022).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hrkd_cli.events import Note, Progress
from hrkd_cli.formatting import percent
from hrkd_cli.models.loading import output_layer
from hrkd_cli.models.mean_pooling import POOLED, with_pooling_layer
from hrkd_cli.predict.heads import DomainHeads, FloatArray
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.dev_scoring import predict_split
from hrkd_cli.training.tokenized_split import TokenizedSplit

TRAIN_ROWS, DEV_ROWS = 2000, 1000
"""Rows of all domains that a probe reads; more would not change its choice, and each costs a forward pass."""
REGULARIZATION = 16.0
"""C of scikit-learn times the number of features, as of the baseline on a frozen encoder."""


@dataclass(frozen=True, slots=True)
class LinearProbe:
    """Logistic regression on the inputs of a classifier's output layer.

    Attributes:
        model: the classifier, unchanged.
        weight: (outputs, H), for the output layer.
        bias: (outputs,).
        accuracy: on dev rows, averaged over domains.
    """

    model: Any
    weight: FloatArray
    bias: FloatArray
    accuracy: float

    def apply(self) -> None:
        """Give the model's output layer the probe's weights."""
        _, layer = output_layer(self.model)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(self.weight))
            if layer.bias is not None:
                layer.bias.copy_(torch.from_numpy(self.bias))


def start_from_probe(
    classifier: Any,
    train: TokenizedSplit,
    dev: TokenizedSplit,
    heads: DomainHeads,
    context: TrainContext,
    decisions: dict[str, Any],
) -> Any:
    """Return the classifier, or one that reads the mean of the hidden states if its probe is better on dev.

    Its heads have the probe's weights. A resumed run has its choice in ``decisions``, and its weights in a checkpoint.
    """
    if "mean_pooling" in decisions:
        return with_pooling_layer(classifier).to(context.device) if decisions["mean_pooling"] else classifier
    train, dev = train.subsample(TRAIN_ROWS), dev.subsample(DEV_ROWS)
    probe = _fit_probe(classifier, train, dev, heads, context)
    chosen, text = probe, f"heads start from a linear probe, {percent(probe.accuracy)}% on dev"
    if classifier.config.model_type in POOLED:
        with_mean = with_pooling_layer(classifier).to(context.device)
        mean_probe = _fit_probe(with_mean, train, dev, heads, context)
        if mean_probe.accuracy > probe.accuracy:
            chosen = mean_probe
            text = f"{text} with the first token and {percent(mean_probe.accuracy)}% with the mean, which is chosen"
    decisions["mean_pooling"] = chosen is not probe
    context.on_event(Note(text))
    chosen.apply()
    return chosen.model


def _fit_probe(
    model: Any, train: TokenizedSplit, dev: TokenizedSplit, heads: DomainHeads, context: TrainContext
) -> LinearProbe:
    """Fit a probe for each domain to its train rows, and score it on dev."""
    from sklearn.linear_model import LogisticRegression

    context.on_event(Progress("linear probe of the encoder"))
    inputs, dev_inputs = (_head_inputs(model, split, context) for split in (train, dev))
    scale = float(np.sqrt(np.mean([np.mean(np.square(rows)) for rows in inputs.values()])))
    size = next(iter(inputs.values())).shape[1]
    weight, bias, correct = np.zeros((heads.num_outputs, size)), np.zeros(heads.num_outputs), []
    for domain, rows in inputs.items():
        if len(np.unique(train.labels[domain])) < 2:  # of a sample of very unequal classes
            continue
        regression = LogisticRegression(C=REGULARIZATION / size, max_iter=1000)
        regression.fit(rows / scale, train.labels[domain])
        columns = np.array(heads.columns[domain])
        if len(regression.classes_) == 2:
            half, offset = regression.coef_[0] / 2, regression.intercept_[0] / 2
            own_weight, own_bias = np.stack([-half, half]), np.array([-offset, offset])
        else:
            own_weight, own_bias = regression.coef_, regression.intercept_
        weight[columns[regression.classes_]] = own_weight / scale
        bias[columns] = own_bias.min()  # labels without rows
        bias[columns[regression.classes_]] = own_bias
        predicted = (dev_inputs[domain] @ weight[columns].T + bias[columns]).argmax(axis=1)
        correct.append(np.mean(predicted == dev.labels[domain]))
    return LinearProbe(model, weight.astype(np.float32), bias.astype(np.float32), float(np.mean(correct)))


def _head_inputs(model: Any, split: TokenizedSplit, context: TrainContext) -> dict[str, FloatArray]:
    """Return the inputs of the output layer by domain, (n, H)."""
    name, layer = output_layer(model)
    parent = model.get_submodule(name.rpartition(".")[0])
    setattr(parent, name.rpartition(".")[2], torch.nn.Identity())
    try:
        return predict_split(model, split, context, width=layer.in_features)
    finally:
        setattr(parent, name.rpartition(".")[2], layer)
