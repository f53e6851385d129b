"""Accuracy, F1 and confidence intervals, computed by scikit-learn and scipy."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Interval = tuple[float, float]

ERROR_RATE = 0.05  # of a sign test


@dataclass(frozen=True, slots=True)
class LabelScores:
    """Precision, recall and F1 of one label (0 if undefined), its number of rows, and how often each answer was given.

    ``answers`` is a row of the confusion matrix, without zeros.
    """

    precision: float
    recall: float
    f1: float
    support: int
    answers: dict[str, int]


@dataclass(frozen=True, slots=True)
class DomainScores:
    """Scores of one domain.

    Attributes:
        n: number of rows.
        accuracy: fraction of correct labels.
        macro_f1: unweighted mean F1 of the labels that occur in the rows or the predictions.
        interval: 95% confidence interval of the accuracy.
        labels: scores of every label of the domain.
    """

    n: int
    accuracy: float
    macro_f1: float
    interval: Interval
    labels: dict[str, LabelScores]


@dataclass(frozen=True, slots=True)
class AverageScores:
    """Unweighted means over domains, and the 95% confidence interval of the mean accuracy."""

    accuracy: float
    macro_f1: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class AccuracyDifference:
    """Difference of two models' mean accuracies over domains on the same rows, and its 95% confidence interval."""

    accuracy: float
    interval: Interval


def score_domain(
    true_labels: Sequence[str] | npt.NDArray[np.str_], predicted: npt.NDArray[np.str_], labels: Sequence[str]
) -> DomainScores:
    """Score the predictions for one domain's rows (at least one); ``labels`` are the domain's label names."""
    from sklearn.metrics import precision_recall_fscore_support

    true_labels = np.asarray(true_labels)
    precision, recall, f1, support = precision_recall_fscore_support(
        true_labels, predicted, labels=labels, zero_division=0
    )
    answers = {name: dict(Counter(predicted[true_labels == name].tolist()).most_common()) for name in labels}
    scores = {
        name: LabelScores(float(precision[i]), float(recall[i]), float(f1[i]), int(support[i]), answers[name])
        for i, name in enumerate(labels)
    }
    macro_f1 = float(f1[np.isin(labels, np.union1d(true_labels, predicted))].mean())
    n, correct = len(true_labels), int((true_labels == predicted).sum())
    return DomainScores(n, correct / n, macro_f1, wilson_interval(correct, n), scores)


def average_scores(domains: Mapping[str, DomainScores]) -> AverageScores:
    """Return the unweighted mean over domains (at least one).

    The interval combines those of the D domains by MOVER: its half-widths are ``sqrt(sum (p_d - bound_d)^2) / D``.
    """
    scores, count = domains.values(), len(domains)
    accuracy = sum(d.accuracy for d in scores) / count
    below = math.sqrt(sum((d.accuracy - d.interval[0]) ** 2 for d in scores)) / count
    above = math.sqrt(sum((d.interval[1] - d.accuracy) ** 2 for d in scores)) / count
    return AverageScores(accuracy, sum(d.macro_f1 for d in scores) / count, (accuracy - below, accuracy + above))


def scores_to_json(domains: Mapping[str, DomainScores], *, by_label: bool = False) -> dict[str, Any]:
    """Return the scores and their average as plain values."""
    plain = {name: asdict(scores) | {"interval": list(scores.interval)} for name, scores in domains.items()}
    if not by_label:
        for entry in plain.values():
            del entry["labels"]
    mean = average_scores(domains)
    return {"domains": plain, "average": asdict(mean) | {"interval": list(mean.interval)}}


def wilson_interval(correct: int, n: int) -> Interval:
    """Return Wilson's 95% score interval of a proportion, which also holds for small n and near 0 and 1."""
    from scipy.stats import binomtest

    low, high = binomtest(correct, n).proportion_ci(method="wilson")
    return float(low), float(high)


def paired_difference(
    one: Mapping[str, npt.NDArray[np.bool_]], other: Mapping[str, npt.NDArray[np.bool_]]
) -> AccuracyDifference:
    """Return the mean accuracy over domains of one model minus that of another.

    The arrays say for the same rows of each domain whether each model is right. The intervals of the D domains (see
    ``_difference_interval``) are combined as in ``average_scores``.
    """
    means = [float(one[domain].mean() - other[domain].mean()) for domain in one]
    widths = np.array([_difference_interval(one[domain], other[domain]) for domain in one])
    mean, (below, above) = sum(means) / len(means), np.sqrt((widths**2).sum(axis=0)) / len(means)
    return AccuracyDifference(mean, (mean - float(below), mean + float(above)))


def _difference_interval(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> Interval:
    """Return how far the 95% interval of a difference of accuracies reaches below and above it.

    Combines Wilson's intervals of both, given the correlation of the answers (Newcombe 1998, Statistics in Medicine
    17:2635: the score interval of a difference of paired proportions).
    """
    n, right = len(one), (int(one.sum()), int(other.sum()))
    (p1, low1, high1), (p2, low2, high2) = ((count / n, *wilson_interval(count, n)) for count in right)
    both, neither = int((one & other).sum()), int((~one & ~other).sum())
    covariance = both * neither - (right[0] - both) * (right[1] - both)
    product = math.prod((count * (n - count)) for count in right)
    correlation = covariance / math.sqrt(product) if product else 0.0

    def combine(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a**2 - 2 * correlation * a * b + b**2))  # rounding may make it negative

    return combine(p1 - low1, high2 - p2), combine(high1 - p1, p2 - low2)


def is_more_accurate(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> bool:
    """Return whether one model is right on significantly more rows than another (sign test, p < ``ERROR_RATE``).

    The arrays say for the same rows whether each model is right.
    """
    from scipy.stats import binomtest

    won, lost = int((one & ~other).sum()), int((other & ~one).sum())
    return won > lost and float(binomtest(won, won + lost, alternative="greater").pvalue) < ERROR_RATE
