"""How far probabilities can be trusted: calibration error, Brier score, and accuracy of the more certain answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from hrkd_cli.data.dataset import TextRows
from hrkd_cli.evaluation.scoring import DomainLogits, PredictedLabels, best_labels
from hrkd_cli.predict.answers import answer_without_domain
from hrkd_cli.predict.calibration import lowest_threshold
from hrkd_cli.predict.heads import DomainHeads, DoubleArray, domain_probabilities
from hrkd_cli.predict.model_spec import ModelSpec

BINS = 15  # of equal width, as in Guo et al. 2017
TARGETS = (90, 95, 98, 99)
CURVE_POINTS = 100
MOST_SUSPECTS = 20
CASCADE_SHARES = (0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75)
"""Shares of the rows that thresholds of a cascade send on; with equal confidences, fewer."""
_TEXT_START = 200  # characters


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers to labeled rows.

    Attributes:
        confidences, correct: probability of each answer, and whether it is right.
        brier: sum over labels of ``(p - truth)^2`` of each row, 0 to 2; empty if the domain was not given.
        labels: the answers by domain of the rows. If domains have different labels, a label of another domain than the
            row's is ``DOMAIN/LABEL``.
        domains: the domains that were found, likewise; empty if none were.
    """

    confidences: DoubleArray
    correct: npt.NDArray[np.bool_]
    brier: DoubleArray
    labels: PredictedLabels
    domains: PredictedLabels = field(default_factory=dict)


def judge(logits: DomainLogits, labels: Mapping[str, Sequence[str]], heads: DomainHeads) -> Answers:
    """Return the answers to rows whose domain is given; ``labels`` are the true labels of each domain's rows."""
    confidences, brier, answers = [], [], best_labels(logits, heads)
    for domain, own in logits.items():
        probabilities = domain_probabilities(own, heads, domain)
        truth = np.array(labels[domain])[:, None] == np.array(heads.labels[domain])
        confidences.append(probabilities.max(axis=1))
        brier.append(((probabilities - truth) ** 2).sum(axis=1))
    correct = np.concatenate([answers[domain] == np.array(labels[domain]) for domain in logits])
    return Answers(np.concatenate(confidences), correct, np.concatenate(brier), answers)


def judge_without_domain(logits: DomainLogits, labels: Mapping[str, Sequence[str]], spec: ModelSpec) -> Answers:
    """Return the answers to rows whose domain the model has to find (see ``answer_without_domain``)."""
    confidences, answers, domains, is_same = [], {}, {}, spec.all_heads.share_labels
    for domain, own in logits.items():
        found = answer_without_domain(own, spec)
        confidences += [max(each.scores.values()) for each in found]
        names = [a.label if is_same or a.domain == domain else f"{a.domain}/{a.label}" for a in found]
        answers[domain] = np.array(names, dtype=np.str_)
        domains[domain] = np.array([each.domain for each in found], dtype=np.str_)
    correct = np.concatenate([answers[domain] == np.array(labels[domain]) for domain in logits])
    return Answers(np.array(confidences), correct, np.array([]), answers, domains if spec.finds_domains else {})


def reliability(answers: Answers) -> list[dict[str, float]]:
    """Return the mean probability, the accuracy and the number of answers in each bin that has any."""
    bins = np.minimum((answers.confidences * BINS).astype(int), BINS - 1)
    return [
        {
            "confidence": float(answers.confidences[inside].mean()),
            "accuracy": float(answers.correct[inside].mean()),
            "n": int(inside.sum()),
        }
        for inside in (bins == number for number in np.unique(bins))
    ]


def calibration_error(answers: Answers) -> float:
    """Return the expected calibration error: the mean difference of probability and accuracy in ``BINS`` bins."""
    gaps = [entry["n"] * abs(entry["confidence"] - entry["accuracy"]) for entry in reliability(answers)]
    return sum(gaps) / len(answers.confidences)


def describe_confidence(
    answers: Answers, uncalibrated: Answers | None, promises: Sequence[Mapping[str, float]]
) -> dict[str, Any]:
    """Return the ``confidence`` entry of a model in the JSON of ``eval``, but its suspects; see docs/outputs.md.

    ``uncalibrated`` are the answers without the calibration, whose thresholds are ``promises``; None if there is none.
    """
    entry: dict[str, Any] = {"bins": BINS}
    if uncalibrated is not None:
        entry["uncalibrated"] = _summarize(uncalibrated)
        entry["coverage"] = [_coverage(answers, promises, target) for target in TARGETS]
    return entry | _summarize(answers) | {"reliability": reliability(answers), "risk_coverage": risk_coverage(answers)}


def _summarize(answers: Answers) -> dict[str, float]:
    brier = {"brier": float(answers.brier.mean())} if len(answers.brier) else {}
    return {"ece": calibration_error(answers)} | brier


def _coverage(answers: Answers, promises: Sequence[Mapping[str, float]], target: int) -> dict[str, Any]:
    """Return the share of rows above the threshold for a target in percent, and their accuracy."""
    threshold = lowest_threshold(promises, target / 100)
    if threshold is None:
        return {"target": target, "threshold": None, "coverage": None, "accuracy": None}
    answered = answers.confidences >= threshold
    accuracy = float(answers.correct[answered].mean()) if answered.any() else None
    return {"target": target, "threshold": threshold, "coverage": float(answered.mean()), "accuracy": accuracy}


def find_suspects(logits: DomainLogits, rows: Mapping[str, TextRows], heads: DomainHeads) -> list[dict[str, Any]]:
    """Return the rows whose label the most certain answers contradict: likely label errors, most certain ones first."""
    suspects: list[dict[str, Any]] = []
    for domain, own in logits.items():
        part, names, probabilities = rows[domain], heads.labels[domain], domain_probabilities(own, heads, domain)
        for n, best in enumerate(probabilities.argmax(axis=1)):
            if names[best] == part.labels[n]:
                continue
            where = {"domain": domain, "row": n + 1} | ({"location": part.locations[n]} if part.locations else {})
            labels = {"text": part.texts[n][:_TEXT_START], "label": part.labels[n], "answer": names[best]}
            suspects.append({**where, **labels, "probability": float(probabilities[n, best])})
    suspects.sort(key=lambda suspect: -suspect["probability"])
    return suspects[:MOST_SUSPECTS]


def describe_cascade(
    first: Answers, fallback: Answers, milliseconds: tuple[float, float] | None = None
) -> dict[str, Any]:
    """Return the ``cascade`` entry of the JSON of ``eval``: a fallback model answers what the first is not certain of.

    Args:
        first: answers of the first model.
        fallback: answers of the fallback model to the same rows.
        milliseconds: latency of a text in both models, if it was measured. A text that is sent on takes both.
    """
    ordered = np.sort(first.confidences)
    steps: list[dict[str, float]] = []
    for share in CASCADE_SHARES:
        threshold = _shorten(float(ordered[int(share * len(ordered))]), ordered)
        sent = first.confidences < threshold
        accuracy = float(np.where(sent, fallback.correct, first.correct).mean())
        step = {"threshold": threshold, "sent": float(sent.mean()), "accuracy": accuracy}
        if milliseconds is not None:
            step["latency_ms"] = milliseconds[0] + step["sent"] * milliseconds[1]
        steps.append(step)
    alone = float(fallback.correct.mean())
    enough = [step["threshold"] for step in steps if step["accuracy"] >= alone]
    return {"fallback_accuracy": alone, "equal_at": enough[0] if enough else None, "steps": steps}


def _shorten(threshold: float, ordered: DoubleArray) -> float:
    """Return a threshold with as few decimals, at least 3, as leave the same confidences below it."""
    rounded = (round(threshold, decimals) for decimals in range(3, 17))
    below = np.searchsorted(ordered, threshold)
    return next((short for short in rounded if np.searchsorted(ordered, short) == below), threshold)


def risk_coverage(answers: Answers) -> list[dict[str, float]]:
    """Return the accuracy of the most certain answers, for up to ``CURVE_POINTS`` shares of the rows."""
    order = np.argsort(-answers.confidences, kind="stable")
    right, count = np.cumsum(answers.correct[order]), len(order)
    ends = np.unique(np.ceil(count * np.arange(1, CURVE_POINTS + 1) / CURVE_POINTS).astype(int))
    return [
        {
            "coverage": float(end / count),
            "accuracy": float(right[end - 1] / end),
            "threshold": float(answers.confidences[order[end - 1]]),
        }
        for end in ends
    ]
