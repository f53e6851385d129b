"""Scores of a model in memory on a split, domain by domain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hrkd_cli.choices import Metric
from hrkd_cli.data.dataset import Dataset
from hrkd_cli.evaluation.metrics import DomainScores, average, score_domain
from hrkd_cli.models.capture import select_columns
from hrkd_cli.models.encoding import Encoded, Encoder
from hrkd_cli.models.precision import Arithmetic
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.training.process_group import SINGLE_PROCESS, ProcessGroup

SCORING_BATCH = 32


@dataclass(frozen=True, slots=True)
class SplitLabels:
    """A split, encoded, with the right answers.

    Attributes:
        encoded: token ids by domain.
        labels: for each domain, the index of each row's label among the domain's labels.
    """

    encoded: dict[str, Encoded]
    labels: dict[str, np.ndarray]

    @property
    def rows(self) -> int:
        """Rows of all domains."""
        return sum(len(encoded) for encoded in self.encoded.values())


def encode_split(dataset: Dataset, split: str, encoder: Encoder) -> SplitLabels:
    """Encode one split of every domain that has it."""
    encoded, labels = {}, {}
    for domain, names in dataset.labels.items():
        rows = dataset.split(domain, split)
        if len(rows):
            encoded[domain] = encoder.encode(rows)
            labels[domain] = np.array([names.index(label) for label in rows.labels], dtype=np.int64)
    return SplitLabels(encoded, labels)


def predict_labels(
    model: Any,
    encoded: Encoded,
    columns: tuple[int, ...],
    encoder: Encoder,
    arithmetic: Arithmetic,
    processes: ProcessGroup = SINGLE_PROCESS,
) -> np.ndarray:
    """Return the index of the most probable label of each row; the model's mode is restored afterwards."""
    order = np.argsort(-encoded.lengths(), kind="stable")
    device = arithmetic.device
    # Each process fills in its own rows, the others' stay 0: the sum is the whole.
    predicted = torch.zeros(len(encoded), dtype=torch.int64, device=device)
    training = model.training
    model.eval()
    with torch.no_grad(), arithmetic.forward():
        for start in processes.shard(range(0, len(order), SCORING_BATCH)):
            indices = order[start : start + SCORING_BATCH]
            logits = model(**encoder.collate(encoded, indices.tolist(), device).inputs).logits
            predicted[torch.from_numpy(indices).to(device)] = select_columns(logits, columns).argmax(dim=-1)
    model.train(training)
    return processes.all_reduce(predicted).cpu().numpy()


def score(
    models: Any | Mapping[str, Any],
    split: SplitLabels,
    heads: DomainHeads,
    encoder: Encoder,
    arithmetic: Arithmetic,
    processes: ProcessGroup = SINGLE_PROCESS,
) -> dict[str, DomainScores]:
    """Score one model, or a model a domain, on a split, in the precision of the run."""
    scores = {}
    for domain, encoded in split.encoded.items():
        model = models[domain] if isinstance(models, Mapping) else models
        truth = split.labels[domain]
        predicted = predict_labels(model, encoded, heads.columns[domain], encoder, arithmetic, processes)
        scores[domain] = score_domain(truth, predicted, heads.labels[domain])
    return scores


def figure(scores: DomainScores, metric: Metric) -> float:
    """Return the figure that decides which step is best."""
    return scores.accuracy if metric is Metric.ACCURACY else scores.macro_f1


def mean_figure(scores: Mapping[str, DomainScores], metric: Metric) -> float:
    """Return its unweighted mean over domains."""
    return sum(figure(s, metric) for s in scores.values()) / len(scores)


def scores_to_json(scores: Mapping[str, DomainScores]) -> dict[str, Any]:
    """Return domains and their average in the shape of ``hrkd eval --json``."""
    return {
        "domains": {domain: s.to_json() for domain, s in scores.items()},
        "average": average(list(scores.values())).to_json(),
    }
