"""Answers from logits: the label of each text, in a given domain or in the one that the model finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hrkd_cli.predict.heads import (
    DoubleArray,
    FloatArray,
    domain_probabilities,
    joint_probabilities,
    mean_probabilities,
    sum_over_domains,
)
from hrkd_cli.predict.model_spec import ModelSpec

MOST_PAIRS = 10
"""Number of scores of an answer among domains with different labels, whose pairs can be hundreds."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one text; see ``hrkd_cli.predict.predictor.Prediction``."""

    domain: str
    label: str
    scores: dict[str, float]
    domain_probability: float | None = None


def answer(logits: FloatArray, spec: ModelSpec, domain: str) -> list[Answer]:
    """Return an answer for each row of logits, (n, outputs); ``domain`` is one of the model's, or ``auto``.

    If the model finds domains, p(label | text) is the sum of p(domain, label | text) over domains, and the domain is
    the most probable one. If the domains have different labels, the answer is the most probable (domain, label) pair.

    Raises:
        UsageError: the model does not find domains, and they have different labels.
    """
    heads = spec.all_heads
    if domain in heads.labels:  # a domain may itself be named "auto"
        return _best_labels(domain, heads.labels[domain], domain_probabilities(logits, heads, domain))
    if not spec.finds_domains:
        return _best_labels(domain, *mean_probabilities(logits, heads))
    joint = joint_probabilities(logits, heads)
    of_domains = np.stack([probabilities.sum(axis=1) for probabilities in joint.values()], axis=1)
    if heads.share_labels:
        answers = _best_labels(domain, heads.labels[heads.domains[0]], sum_over_domains(joint, heads))
        return [
            replace(one, domain=heads.domains[row.argmax()], domain_probability=float(row.max()))
            for one, row in zip(answers, of_domains, strict=True)
        ]
    pairs = [(name, label) for name, labels in heads.labels.items() for label in labels]
    answers = []
    for row, of_domain in zip(np.concatenate(list(joint.values()), axis=1), of_domains, strict=True):
        order = np.argsort(-row, kind="stable")[:MOST_PAIRS].tolist()
        found, label = pairs[order[0]]
        scores = {"/".join(pairs[n]): float(row[n]) for n in order}
        answers.append(Answer(found, label, scores, float(of_domain[heads.domains.index(found)])))
    return answers


def _best_labels(domain: str, labels: Sequence[str], probabilities: DoubleArray) -> list[Answer]:
    return [Answer(domain, labels[row.argmax()], dict(zip(labels, row.tolist(), strict=True))) for row in probabilities]
