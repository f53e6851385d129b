"""Fits the calibration of a model on dev: temperatures by maximum likelihood, and thresholds that promise an accuracy.

The fits are penalized, so that few rows, rows without an error or rows without a right answer give a sensible
temperature: the logarithm of the temperature of all domains together has a normal prior around 0, and that of one
domain a narrower one around the temperature of all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hrkd_cli.evaluation.reliability import judge, judge_without_domain
from hrkd_cli.evaluation.scoring import DomainLogits
from hrkd_cli.predict.calibration import AUTO, GIVEN, LEVEL, Calibration
from hrkd_cli.predict.heads import DomainHeads, DoubleArray, domain_logits
from hrkd_cli.predict.model_spec import ModelSpec

POOLED_DEVIATION = 1.0  # standard deviation of the logarithm of the temperature of all domains
DOMAIN_DEVIATION = 0.5  # of a domain's, around it
STEPS = 50  # thresholds that are tried: after each 2% of the rows
STARTS = (0.2, 0.6)
"""Where walks over the thresholds start, as fractions of the rows. A walk that starts at few rows promises nothing for
high targets, one that starts at many promises nothing if the model is weak."""

_MAX_LOG = 4.0
BoolArray = npt.NDArray[np.bool_]


def fit_calibration(
    logits: DomainLogits, labels: Mapping[str, Sequence[str]], heads: DomainHeads, spec: ModelSpec
) -> dict[str, Any]:
    """Return a model's entry of ``hrkd.calibration`` in ``config.json`` (see ``hrkd_cli.predict.calibration``).

    Args:
        logits: logits of all outputs for the dev rows of each domain.
        labels: true labels of these rows.
        heads: the heads that the domains of the rows use.
        spec: configuration of the model. A classifier with plain labels gets one temperature.
    """
    targets = {d: np.array([heads.labels[d].index(label) for label in labels[d]], dtype=np.intp) for d in logits}
    slices = {domain: own[:, list(heads.columns[domain])].astype(np.float64) for domain, own in logits.items()}
    pooled = fit_temperature([(slices[domain], targets[domain]) for domain in slices])
    temperatures = dict.fromkeys(spec.all_heads.domains, pooled)
    if spec.heads is not None:
        temperatures |= {
            domain: fit_temperature([(own, targets[domain])], around=pooled, deviation=DOMAIN_DEVIATION)
            for domain, own in slices.items()
        }
    rows = sum(map(len, targets.values()))
    calibration = Calibration(rows, temperatures, _fit_domain_temperature(logits, spec), {})
    calibrated = {domain: calibration.apply(own, spec.all_heads) for domain, own in logits.items()}
    answers = judge(calibrated, labels, heads)
    thresholds = {GIVEN: find_promises(answers.confidences, answers.correct)}
    if spec.heads is not None and len(spec.heads.domains) > 1 and (spec.finds_domains or spec.heads.share_labels):
        answers = judge_without_domain(calibrated, labels, spec)
        thresholds[AUTO] = find_promises(answers.confidences, answers.correct)
    return asdict(replace(calibration, thresholds=thresholds))


def _fit_domain_temperature(logits: DomainLogits, spec: ModelSpec) -> float:
    """Return the temperature of the softmax over domains; 1 if the model does not find domains."""
    if spec.heads is None or not spec.finds_domains:
        return 1.0
    return fit_temperature(
        [
            (domain_logits(own, spec.heads), np.full(len(own), spec.heads.domains.index(domain)))
            for domain, own in logits.items()
        ]
    )


def fit_temperature(
    rows: Sequence[tuple[DoubleArray, npt.NDArray[np.intp]]],
    *,
    around: float = 1.0,
    deviation: float = POOLED_DEVIATION,
) -> float:
    """Return the temperature with the largest penalized likelihood of the true labels.

    Args:
        rows: pairs of logits, (n, labels), and indices of the true labels, (n,).
        around: median of the prior, a log-normal distribution.
        deviation: standard deviation of the logarithm in the prior.
    """
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        penalty = (log_temperature - np.log(around)) ** 2 / (2 * deviation**2)
        return float(penalty + sum(negative_log_likelihood(own / np.exp(log_temperature), t) for own, t in rows))

    found = minimize_scalar(loss, bounds=(-_MAX_LOG, _MAX_LOG), method="bounded", options={"xatol": 1e-6})
    return round(float(np.exp(found.x)), 4)


def negative_log_likelihood(logits: DoubleArray, targets: npt.NDArray[np.intp]) -> float:
    """Return the sum over rows of -log p(true label)."""
    from scipy.special import logsumexp

    return float((logsumexp(logits, axis=1) - logits[np.arange(len(logits)), targets]).sum())


def find_promises(confidences: DoubleArray, correct: BoolArray) -> list[dict[str, float]]:
    """Return thresholds of the confidence, each with the accuracy that it promises with 95% confidence.

    A threshold is the confidence of a dev row. Of the rows above it, correct ones are counted, which gives a lower
    Clopper-Pearson bound of the accuracy. For a target accuracy, a walk starts at a high threshold and goes down until
    a bound is below the target; it accepts a wrong threshold with probability ``LEVEL`` at most, however many it
    passes (fixed-sequence testing). The two walks together keep the promise in 95% of all cases. A threshold promises
    the largest target for which a walk reaches it. Thresholds that promise no more than a lower one are left out.
    """
    from scipy.stats import beta

    order = np.lexsort((correct, -confidences))  # of rows with equal confidence, a correct one is last
    ordered, right = confidences[order], correct[order].astype(int)
    count = len(ordered)
    steps = np.ceil(count * np.arange(1, STEPS + 1) / STEPS).astype(int)
    ends = np.unique(np.searchsorted(-ordered, -ordered[steps - 1], side="right"))
    # The row that gives the threshold does not count: given the threshold, only the others are a fair sample.
    hits = np.cumsum(right)[ends - 1]
    successes, trials = hits - right[ends - 1], ends - 1
    bounds = np.where(successes > 0, beta.ppf(LEVEL, np.maximum(successes, 1), trials - successes + 1), 0.0)
    possible = np.where(trials > 0, LEVEL ** (1 / np.maximum(trials, 1)), 0.0)  # the bounds if all rows were right
    promised = np.zeros(len(ends))
    for start in STARTS:
        first = np.searchsorted(ends, start * count)
        promised[first:] = np.maximum(promised[first:], _walk(bounds[first:], possible[first:]))
    entries: list[dict[str, float]] = []
    for n in reversed(range(len(ends))):
        if (promise := float(np.floor(1e4 * promised[n]) / 1e4)) > (entries[-1]["lower_bound"] if entries else 0.0):
            fractions = {"coverage": round(ends[n] / count, 4), "accuracy": round(hits[n] / ends[n], 4)}
            entries.append({"threshold": float(ordered[ends[n] - 1]), "lower_bound": promise, **fractions})
    return entries


def _walk(bounds: DoubleArray, possible: DoubleArray) -> DoubleArray:
    """Return the largest target for which a walk reaches each threshold; it skips those with too few rows for it."""
    reached = np.zeros(len(bounds))
    for target in bounds:
        tested = np.flatnonzero(possible >= target)
        failed = np.flatnonzero(bounds[tested] < target)
        passed = tested[: failed[0]] if len(failed) else tested
        reached[passed] = np.maximum(reached[passed], target)
    return reached
