"""Linear probe of a pretrained encoder: chooses its pooling, and gives its heads their first weights.

Fine-tuning then starts from logistic regression on the frozen encoder instead of random heads, which helps most where
rows are few ("Fine-Tuning can Distort Pretrained Features", Kumar et al., ICLR 2022).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from hrkd_cli.evaluation.metrics import is_more_accurate
from hrkd_cli.events import Note, Progress
from hrkd_cli.formatting import percent
from hrkd_cli.models.loading import output_layer
from hrkd_cli.models.mean_pooling import POOLED, has_pooling_layer, with_pooling_layer
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.dev_scoring import predict_split
from hrkd_cli.training.tokenized_split import TokenizedSplit

TRAIN_ROWS, DEV_ROWS = 2000, 1000
"""Rows of all domains that a probe reads; more would not change its choice, and each costs a forward pass."""
REGULARIZATION = 16.0
"""C of scikit-learn times the number of features, as of the baseline on a frozen encoder."""
MAX_ITERATIONS = 1000


@dataclass(frozen=True, slots=True)
class LinearProbe:
    """Logistic regression on the inputs of a classifier's output layer.

    Attributes:
        model: the classifier, unchanged.
        weight: (outputs, H) float64, for the output layer.
        bias: (outputs,).
        correct: whether it is right, for the dev rows of all domains.
    """

    model: Any
    weight: Tensor
    bias: Tensor
    correct: npt.NDArray[np.bool_]

    def apply(self) -> None:
        """Give the model's output layer the probe's weights."""
        _, layer = output_layer(self.model)
        with torch.no_grad():
            layer.weight.copy_(self.weight)
            if layer.bias is not None:
                layer.bias.copy_(self.bias)


def start_from_probe(
    classifier: Any,
    train: TokenizedSplit,
    dev: TokenizedSplit,
    heads: DomainHeads,
    context: TrainContext,
    decisions: dict[str, Any],
) -> Any:
    """Return the classifier, or one that reads the mean of the hidden states if its probe is clearly better on dev.

    Its heads have the probe's weights. A resumed run has its choice in ``decisions``, and its weights in a checkpoint.
    """
    if "mean_pooling" in decisions:
        return with_pooling_layer(classifier).to(context.device) if decisions["mean_pooling"] else classifier
    train, dev = train.subsample(TRAIN_ROWS), dev.subsample(DEV_ROWS)
    probe = _fit_probe(classifier, train, dev, heads, context)
    chosen, text = probe, f"heads start from a linear probe, {percent(probe.correct.mean())}% on dev"
    if classifier.config.model_type in POOLED:
        with_mean = with_pooling_layer(classifier).to(context.device)
        mean_probe = _fit_probe(with_mean, train, dev, heads, context)
        if is_more_accurate(mean_probe.correct, probe.correct):
            chosen = mean_probe
        kept = "the mean" if chosen is mean_probe else "the first token"
        text = f"{text} with the first token and {percent(mean_probe.correct.mean())}% with the mean: {kept} is used"
    decisions["mean_pooling"] = chosen is not probe
    context.on_event(Note(text))
    chosen.apply()
    return chosen.model


def _fit_probe(
    model: Any, train: TokenizedSplit, dev: TokenizedSplit, heads: DomainHeads, context: TrainContext
) -> LinearProbe:
    """Fit a probe for each domain to its train rows, and score it on dev.

    To all outputs of a domain, it adds those of another probe, which tells the domains apart. That changes no softmax
    over a domain's own labels, and the softmax over all outputs starts close to p(domain, label | text).
    """
    inputs_read = ", mean of all tokens" if has_pooling_layer(model.config) else ""
    context.on_event(Progress(f"linear probe of the encoder{inputs_read}"))
    inputs, dev_inputs = (_head_inputs(model, split, context) for split in (train, dev))
    scale = torch.cat([rows.flatten() for rows in inputs.values()]).square().mean().sqrt()
    size = next(iter(inputs.values())).shape[1]
    weight = torch.zeros(heads.num_outputs, size, dtype=torch.float64)
    bias, correct = torch.zeros(heads.num_outputs, dtype=torch.float64), []
    domains = torch.repeat_interleave(torch.tensor([len(rows) for rows in inputs.values()]))
    domain_weights, domain_biases = fit_logistic_regression(
        torch.cat([*inputs.values()]) / scale, domains, len(inputs), REGULARIZATION / size
    )
    for number, (domain, rows) in enumerate(inputs.items()):
        columns, labels = torch.tensor(heads.columns[domain]), torch.from_numpy(train.labels[domain])
        own_weight, own_bias = fit_logistic_regression(rows / scale, labels, len(columns), REGULARIZATION / size)
        weight[columns] = (own_weight + domain_weights[number]) / scale
        bias[columns] = own_bias + domain_biases[number]
        predicted = (dev_inputs[domain] @ weight[columns].T + bias[columns]).argmax(dim=1)
        correct.append(predicted.numpy() == dev.labels[domain])
    return LinearProbe(model, weight, bias, np.concatenate(correct))


def fit_logistic_regression(rows: Tensor, labels: Tensor, classes: int, regularization: float) -> tuple[Tensor, Tensor]:
    """Return weight (classes, H) and bias (classes,) of a multinomial logistic regression on ``rows``, (n, H) float64.

    It is scikit-learn's with ``C=regularization`` (twice that for two classes, of which it keeps only one weight), but
    equal to the bit in every process, so that a run that is started again is the same.
    Classes without rows get weights of 0 and the smallest bias.
    """
    weight = torch.zeros(classes, rows.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    seen, positions = torch.unique(labels, return_inverse=True)
    solver = torch.optim.LBFGS(
        [weight, bias],
        max_iter=MAX_ITERATIONS,
        tolerance_grad=1e-6,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        solver.zero_grad()
        logits = rows @ weight[seen].T + bias[seen]
        value = F.cross_entropy(logits, positions, reduction="sum") + weight.square().sum() / (2 * regularization)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    solver.step(loss)  # type: ignore[no-untyped-call]
    found = bias.detach().clone()
    found[~torch.isin(torch.arange(classes), seen)] = found[seen].min()
    return weight.detach(), found


def _head_inputs(model: Any, split: TokenizedSplit, context: TrainContext) -> dict[str, Tensor]:
    """Return the inputs of the output layer by domain, (n, H) float64."""
    name, layer = output_layer(model)
    parent = model.get_submodule(name.rpartition(".")[0])
    setattr(parent, name.rpartition(".")[2], torch.nn.Identity())
    try:
        found = predict_split(model, split, context, width=layer.in_features)
        return {domain: torch.from_numpy(rows).double() for domain, rows in found.items()}
    finally:
        setattr(parent, name.rpartition(".")[2], layer)
