"""Scores of predicted labels and their intervals; by numpy, since importing scikit-learn takes seconds of every run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class LabelScores:
    """Precision, recall and F1 of one label (0 where they have no rows), and its number of rows."""

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True, slots=True)
class DomainScores:
    """Scores of one domain.

    Attributes:
        n: rows.
        accuracy: share of right labels.
        macro_f1: unweighted mean of the labels' F1, over the labels that occur in the rows or in the predictions.
        interval: 95 % interval of the accuracy.
        labels: scores by label, every label of the domain.
    """

    n: int
    accuracy: float
    macro_f1: float
    interval: Interval
    labels: dict[str, LabelScores]

    def to_json(self, *, by_label: bool = False) -> dict[str, Any]:
        """Return the scores as plain values."""
        entry = {**asdict(self), "interval": list(self.interval)}
        if not by_label:
            del entry["labels"]
        return entry


@dataclass(frozen=True, slots=True)
class AverageScores:
    """Unweighted means over domains, and the 95 % interval of the mean accuracy."""

    accuracy: float
    macro_f1: float
    interval: Interval

    def to_json(self) -> dict[str, Any]:
        """Return the scores as plain values."""
        return {**asdict(self), "interval": list(self.interval)}


def score_domain(truth: npt.NDArray[np.intp], predicted: npt.NDArray[np.intp], labels: Sequence[str]) -> DomainScores:
    """Score one domain's predictions: of its rows (at least one) the right and the predicted position in ``labels``."""
    support, given, hits = (
        np.bincount(column, minlength=len(labels)) for column in (truth, predicted, truth[truth == predicted])
    )
    precision, recall = hits / np.maximum(given, 1), hits / np.maximum(support, 1)
    f1 = 2 * hits / np.maximum(support + given, 1)
    scores = {
        name: LabelScores(float(precision[i]), float(recall[i]), float(f1[i]), int(support[i]))
        for i, name in enumerate(labels)
    }
    n, correct = len(truth), int(hits.sum())
    return DomainScores(n, correct / n, float(f1[support + given > 0].mean()), wilson(correct, n), scores)


def average(domains: Mapping[str, DomainScores]) -> AverageScores:
    """Return the unweighted mean over domains (at least one).

    The interval combines the domains' own: its half-widths are ``sqrt(sum (p_d - bound_d)^2) / D`` (MOVER).
    """
    scores, count = domains.values(), len(domains)
    accuracy = sum(d.accuracy for d in scores) / count
    below = math.sqrt(sum((d.accuracy - d.interval[0]) ** 2 for d in scores)) / count
    above = math.sqrt(sum((d.interval[1] - d.accuracy) ** 2 for d in scores)) / count
    return AverageScores(accuracy, sum(d.macro_f1 for d in scores) / count, (accuracy - below, accuracy + above))


def scores_to_json(domains: Mapping[str, DomainScores], *, by_label: bool = False) -> dict[str, Any]:
    """Return scores and their average as plain values."""
    entries = {name: scores.to_json(by_label=by_label) for name, scores in domains.items()}
    return {"domains": entries, "average": average(domains).to_json()}


def wilson(correct: int, n: int) -> Interval:
    """Return Wilson's 95 % score interval of a share, which is right for small n and near 0 and 1, too."""
    z, share = NormalDist().inv_cdf(0.975), correct / n
    scale = 1 + z * z / n
    center = (share + z * z / (2 * n)) / scale
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / scale
    return max(0.0, center - half), min(1.0, center + half)
