"""Scores of predicted labels and their intervals, by scikit-learn and scipy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
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


@dataclass(frozen=True, slots=True)
class AverageScores:
    """Unweighted means over domains, and the 95 % interval of the mean accuracy."""

    accuracy: float
    macro_f1: float
    interval: Interval


def score_domain(
    truth: Sequence[str] | npt.NDArray[np.str_], predicted: npt.NDArray[np.str_], labels: Sequence[str]
) -> DomainScores:
    """Score one domain's predictions: label names of its rows (at least one), right and predicted, among ``labels``."""
    from sklearn.metrics import precision_recall_fscore_support

    truth = np.asarray(truth)
    precision, recall, f1, support = precision_recall_fscore_support(truth, predicted, labels=labels, zero_division=0)
    scores = {
        name: LabelScores(float(precision[i]), float(recall[i]), float(f1[i]), int(support[i]))
        for i, name in enumerate(labels)
    }
    macro_f1 = float(f1[np.isin(labels, np.union1d(truth, predicted))].mean())
    n, correct = len(truth), int((truth == predicted).sum())
    return DomainScores(n, correct / n, macro_f1, wilson(correct, n), scores)


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
    plain = {name: asdict(scores) | {"interval": list(scores.interval)} for name, scores in domains.items()}
    if not by_label:
        for entry in plain.values():
            del entry["labels"]
    mean = average(domains)
    return {"domains": plain, "average": asdict(mean) | {"interval": list(mean.interval)}}


def wilson(correct: int, n: int) -> Interval:
    """Return Wilson's 95 % score interval of a share, which is right for small n and near 0 and 1, too."""
    from scipy.stats import binomtest

    low, high = binomtest(correct, n).proportion_ci(method="wilson")
    return float(low), float(high)
