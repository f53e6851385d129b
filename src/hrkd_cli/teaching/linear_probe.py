"""Linear probe of a pretrained encoder: chooses its pooling, and gives its heads their first weights.

Fine-tuning then starts from logistic regression on the frozen encoder instead of random heads, which helps most where
rows are few ("Fine-Tuning can Distort Pretrained Features", Kumar et al., ICLR 2022).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
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
from hrkd_cli.predict.heads import DomainHeads, predict_label_indices
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.dev_scoring import predict_split
from hrkd_cli.training.tokenized_split import TokenizedSplit

TRAIN_ROWS, DEV_ROWS = 2000, 1000
"""Rows of all domains that a probe reads; more would not change its choice, and each costs a forward pass."""
REGULARIZATION = 16.0
"""C of scikit-learn times the number of features, as of the baseline on a frozen encoder."""
MAX_ITERATIONS = 1000


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
    dev = dev.subsample(DEV_ROWS)
    correct = _fit_and_score(classifier, train, dev, heads, context)
    chosen, text = classifier, f"heads start from a linear probe, {percent(correct.mean())}% on dev"
    if classifier.config.model_type in POOLED:
        with_mean = with_pooling_layer(classifier).to(context.device)
        correct_with_mean = _fit_and_score(with_mean, train, dev, heads, context)
        if is_more_accurate(correct_with_mean, correct):
            chosen = with_mean
        kept = "the mean" if chosen is with_mean else "the first token"
        text = f"{text} with the first token and {percent(correct_with_mean.mean())}% with the mean: {kept} is used"
    decisions["mean_pooling"] = chosen is not classifier
    context.on_event(Note(text))
    return chosen


def _fit_and_score(
    model: Any, train: TokenizedSplit, dev: TokenizedSplit, heads: DomainHeads, context: TrainContext
) -> npt.NDArray[np.bool_]:
    """Fit the heads, and return whether they are right, for the dev rows of all domains."""
    inputs_read = ", mean of all tokens" if has_pooling_layer(model.config) else ""
    context.on_event(Progress(f"linear probe of the encoder{inputs_read}"))
    fit_heads(model, train, heads, context)
    logits = predict_split(model, dev, context)
    return np.concatenate([predict_label_indices(logits[d], heads, d) == labels for d, labels in dev.labels.items()])


def fit_heads(
    model: Any, train: TokenizedSplit, heads: DomainHeads, context: TrainContext, class_weights: Tensor | None = None
) -> None:
    """Fit the model's output layer to up to ``TRAIN_ROWS`` train rows: a logistic regression for each domain.

    ``class_weights``, (D, C), multiply the loss of each row. To all outputs of a domain, it adds those of another
    regression, which tells the domains apart. That changes no softmax over a domain's own labels, and the softmax over
    all outputs is close to p(domain, label | text).
    """
    train = train.subsample(TRAIN_ROWS)
    inputs = head_inputs(model, train, context)
    _, layer = output_layer(model)
    scale = torch.cat([rows.flatten() for rows in inputs.values()]).square().mean().sqrt()
    regularization = REGULARIZATION / layer.in_features
    domains = torch.repeat_interleave(torch.tensor([len(rows) for rows in inputs.values()]))
    domain_weights, domain_biases = fit_logistic_regression(
        torch.cat([*inputs.values()]) / scale, domains, len(inputs), regularization
    )
    with torch.no_grad():
        for number, (domain, rows) in enumerate(inputs.items()):
            columns, labels = torch.tensor(heads.columns[domain]), torch.from_numpy(train.labels[domain])
            weights = None if class_weights is None else class_weights[number, : len(columns)].cpu().double()
            weight, bias = fit_logistic_regression(rows / scale, labels, len(columns), regularization, weights)
            layer.weight[columns] = ((weight + domain_weights[number]) / scale).float().to(layer.weight)
            if layer.bias is not None:
                layer.bias[columns] = (bias + domain_biases[number]).float().to(layer.bias)


def fit_logistic_regression(
    rows: Tensor, labels: Tensor, classes: int, regularization: float, class_weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return weight (classes, H) and bias (classes,) of a multinomial logistic regression on ``rows``, (n, H) float64.

    It is scikit-learn's with ``C=regularization`` (twice that for two classes, of which it keeps only one weight), but
    equal to the bit in every process, so that a run that is started again is the same.
    Classes without rows get weights of 0 and the smallest bias.
    """
    weight = torch.zeros(classes, rows.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    seen, positions = torch.unique(labels, return_inverse=True)
    weights = None if class_weights is None else class_weights[seen]
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
        value = F.cross_entropy(logits, positions, weights, reduction="sum") + weight.square().sum() / (
            2 * regularization
        )
        value.backward()  # type: ignore[no-untyped-call]
        return value

    solver.step(loss)  # type: ignore[no-untyped-call]
    found = bias.detach().clone()
    found[~torch.isin(torch.arange(classes), seen)] = found[seen].min()
    return weight.detach(), found


def head_inputs(model: Any, split: TokenizedSplit, context: TrainContext) -> dict[str, Tensor]:
    """Return the inputs of the output layer by domain, (n, H) float64."""
    _, layer = output_layer(model)
    with without_output_layer(model):
        found = predict_split(model, split, context, width=layer.in_features)
    return {domain: torch.from_numpy(rows).double() for domain, rows in found.items()}


@contextlib.contextmanager
def without_output_layer(model: Any) -> Iterator[None]:
    """Let the model return the inputs of its output layer, (R, H), instead of logits."""
    path, layer = output_layer(model)
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, torch.nn.Identity())
    try:
        yield
    finally:
        setattr(model.get_submodule(parent), name, layer)
