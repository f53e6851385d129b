"""Calibrated confidence: temperatures that export fitted on dev, and thresholds that promise an accuracy.

``config.json`` has one entry per exported file. Logits in the files are never changed. Torch weights use the entry of
the fp32 file, which has their logits::

    {"hrkd": {"calibration": {"model_quantized.onnx": {
        "rows": 620, "temperatures": {"books": 1.31, ...}, "domain_temperature": 1.1,
        "thresholds": {"given": [{"threshold": 0.83, "lower_bound": 0.95, "coverage": 0.7, "accuracy": 0.97}, ...],
                       "auto": [...]}}}}}

``thresholds`` are those of texts whose domain is given, and of texts whose domain is unknown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hrkd_cli.errors import ModelError, UsageError
from hrkd_cli.layout import ModelFiles, OnnxFiles
from hrkd_cli.predict.heads import DomainHeads, DoubleArray, Logits

GIVEN, AUTO = "given", "auto"  # names in ``thresholds``
LEVEL = 0.025
"""Probability that one of the two walks over thresholds promises too much (``evaluation/calibration_fit.py``)."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """The calibration of one file.

    Attributes:
        rows: dev rows that it was fitted on.
        temperatures: temperature of each domain's softmax.
        domain_temperature: temperature of the softmax over domains.
        thresholds: ``threshold``, ``lower_bound``, ``coverage`` and ``accuracy``, by what is known of the domain. At
            least the fraction ``lower_bound`` of the answers above a threshold is right, with 95% confidence; on dev,
            it was ``accuracy``, of the fraction ``coverage`` of the rows.
    """

    rows: int
    temperatures: Mapping[str, float]
    domain_temperature: float
    thresholds: Mapping[str, Sequence[Mapping[str, float]]]

    @classmethod
    def read(cls, config: Mapping[str, Any], file: str) -> Calibration | None:
        """Return the calibration of an ONNX file, or of torch weights; None if none is stored.

        Raises:
            ModelError: a temperature is not above 0.
        """
        entries = (config.get("hrkd") or {}).get("calibration") or {}
        entry = entries.get(file if file.endswith(".onnx") else OnnxFiles.fp32)
        if entry is None:
            return None
        calibration = cls(**{name: entry[name] for name in cls.__dataclass_fields__})
        if min([calibration.domain_temperature, *calibration.temperatures.values()]) <= 0:
            raise ModelError(f"{ModelFiles.config}: a temperature of {file} is not above 0; export again")
        return calibration

    def apply(self, logits: Logits, heads: DomainHeads) -> DoubleArray:
        """Return calibrated logits: their softmax over a domain's columns, or over all, gives calibrated probabilities.

        Each head becomes its log-probabilities at the domain's temperature plus the logarithm of the head's sum of
        exponentials at ``domain_temperature``. Neither changes the best label of a domain.
        """
        calibrated = logits.astype(np.float64)
        for domain, own in heads.columns.items():
            head = calibrated[:, list(own)]
            evidence = np.logaddexp.reduce(head, axis=1, keepdims=True) / self.domain_temperature
            head = head / self.temperatures.get(domain, 1.0)
            calibrated[:, list(own)] = head - np.logaddexp.reduce(head, axis=1, keepdims=True) + evidence
        return calibrated

    def find_threshold(self, target: float, domain: str) -> float:
        """Return the lowest threshold that promises an accuracy, 0 to 1; ``domain`` is ``given`` or ``auto``.

        Raises:
            ModelError: none does; the message says how many dev rows it would take.
        """
        entries = self.thresholds.get(domain) or []
        if not entries:
            raise ModelError(
                "--target-accuracy: the dev rows of the export support no target; export again with more (--data)"
            )
        if (threshold := lowest_threshold(entries, target)) is not None:
            return threshold
        most = max(entry["lower_bound"] for entry in entries)
        rows = [needed for entry in entries if (needed := _rows_needed(entry, target))]
        advice = (
            f"export again with about {min(rows):,} (--data)"
            if rows
            else "more would not help, because even its most confident answers are less accurate on them"
        )
        raise ModelError(
            f"--target-accuracy {100 * target:g}: the {self.rows:,} dev rows of the export support at most "
            f"{100 * most:.1f}; {advice}"
        )


def lowest_threshold(promises: Sequence[Mapping[str, float]], target: float) -> float | None:
    """Return the lowest of the thresholds that promise an accuracy, 0 to 1; None if none does."""
    return min((promise["threshold"] for promise in promises if promise["lower_bound"] >= target), default=None)


def check_limits(min_confidence: float | None, target_accuracy: float | None) -> None:
    """Raise a UsageError unless at most one of the two is given, and that one is possible."""
    if min_confidence is not None and target_accuracy is not None:
        raise UsageError("--min-confidence and --target-accuracy: give one of them")
    if min_confidence is not None and not 0 <= min_confidence <= 1:
        raise UsageError(f"--min-confidence: {min_confidence} is not at least 0 and at most 1")
    if target_accuracy is not None and 0 < target_accuracy < 1:  # a slip: --min-confidence is a fraction
        raise UsageError(
            f"--target-accuracy: {target_accuracy} is a percentage; did you mean {100 * target_accuracy:g}?"
        )
    if target_accuracy is not None and not 1 < target_accuracy < 100:
        raise UsageError(f"--target-accuracy: {target_accuracy} is not above 1 and below 100 (percent)")


def _rows_needed(entry: Mapping[str, float], target: float) -> int | None:
    """Return about how many dev rows promise a target if accuracy and coverage stay as they are; None if none do.

    By Chernoff's inequality, n answers of which the fraction ``accuracy`` is right have at most the probability
    exp(-n * divergence) if their true accuracy is ``target``. Without errors, that is their exact probability.
    """
    accuracy = entry["accuracy"]
    if accuracy <= target:
        return None
    wrong = 1 - accuracy
    divergence = accuracy * math.log(accuracy / target) + (wrong * math.log(wrong / (1 - target)) if wrong else 0)
    return math.ceil(-math.log(LEVEL) / divergence / entry["coverage"])
