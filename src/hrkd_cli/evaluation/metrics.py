"""Scores of predicted labels, in plain numpy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Z95 = 1.959963984540054  # the normal distribution's 97.5 % point

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class LabelScores:
    """Scores of one label.

    Attributes:
        precision: share of right ones among the rows predicted as this label; 0 where there are none.
        recall: share of right ones among the rows of this label; 0 where there are none.
        f1: harmonic mean of the two; 0 where both are.
        support: rows of this label.
    """

    precision: float
    recall: float
    f1: float
    support: int

    def to_json(self) -> dict[str, Any]:
        """Return the scores as plain values."""
        return {"precision": self.precision, "recall": self.recall, "f1": self.f1, "support": self.support}


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
        entry: dict[str, Any] = {
            "n": self.n,
            "accuracy": self.accuracy,
            "macro_f1": self.macro_f1,
            "interval": list(self.interval),
        }
        if by_label:
            entry["labels"] = {name: scores.to_json() for name, scores in self.labels.items()}
        return entry

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> DomainScores:
        """Return what ``to_json`` wrote; without its labels where it left them out."""
        low, high = entry["interval"]
        labels = {name: LabelScores(**scores) for name, scores in entry.get("labels", {}).items()}
        return cls(int(entry["n"]), entry["accuracy"], entry["macro_f1"], (low, high), labels)


@dataclass(frozen=True, slots=True)
class AverageScores:
    """Unweighted means over domains, and the 95 % interval of the mean accuracy."""

    accuracy: float
    macro_f1: float
    interval: Interval

    def to_json(self) -> dict[str, Any]:
        """Return the scores as plain values."""
        return {"accuracy": self.accuracy, "macro_f1": self.macro_f1, "interval": list(self.interval)}


def score_domain(truth: npt.NDArray[np.intp], predicted: npt.NDArray[np.intp], labels: Sequence[str]) -> DomainScores:
    """Score one domain's predictions.

    Args:
        truth: right label of each row, as a position in ``labels``; at least one row.
        predicted: predicted label of each row, likewise.
        labels: label names.
    """
    confusion = np.zeros((len(labels), len(labels)), dtype=np.int64)  # [truth, predicted]
    np.add.at(confusion, (truth, predicted), 1)
    right = np.diagonal(confusion)
    support, guesses = confusion.sum(axis=1), confusion.sum(axis=0)
    scores = {name: _label_scores(int(right[i]), int(guesses[i]), int(support[i])) for i, name in enumerate(labels)}
    seen = [scores[name].f1 for i, name in enumerate(labels) if support[i] or guesses[i]]
    n, correct = len(truth), int(right.sum())
    return DomainScores(n, correct / n, sum(seen) / len(seen), wilson(correct, n), scores)


def _label_scores(right: int, guesses: int, support: int) -> LabelScores:
    precision = right / guesses if guesses else 0.0
    recall = right / support if support else 0.0
    f1 = 2 * right / (guesses + support) if guesses + support else 0.0
    return LabelScores(precision, recall, f1, support)


def average(domains: Sequence[DomainScores]) -> AverageScores:
    """Return the unweighted mean over domains (at least one).

    The interval combines the domains' own: its half-widths are ``sqrt(sum (p_d - bound_d)^2) / D`` (MOVER).
    """
    count = len(domains)
    accuracy = sum(d.accuracy for d in domains) / count
    below = math.sqrt(sum((d.accuracy - d.interval[0]) ** 2 for d in domains)) / count
    above = math.sqrt(sum((d.interval[1] - d.accuracy) ** 2 for d in domains)) / count
    return AverageScores(accuracy, sum(d.macro_f1 for d in domains) / count, (accuracy - below, accuracy + above))


def wilson(correct: int, n: int, z: float = Z95) -> Interval:
    """Return Wilson's score interval of a share: right for small n and near 0 and 1, where the usual one is not.

    ``(p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)`` with p = correct / n.
    """
    p = correct / n
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # Rounding may leave [0, 1] by one ulp at p = 0 and p = 1.
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)
