"""Answers from logits: the label of each text, in a given domain or in the one that the model finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hrkd_cli.errors import UsageError
from hrkd_cli.predict.heads import DoubleArray, Logits, domain_probabilities, joint_probabilities
from hrkd_cli.predict.model_spec import AUTO_DOMAIN, ModelSpec

MOST_PAIRS = 10
"""Number of scores of an answer among domains with different labels, whose pairs can be hundreds."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one text; see ``hrkd_cli.predict.predictor.Prediction``."""

    domain: str
    label: str
    scores: dict[str, float]
    domain_probability: float | None = None


def answer(logits: Logits, spec: ModelSpec, domain: str) -> list[Answer]:
    """Return an answer for each row of logits, (n, outputs); ``domain`` is one of the model's, or ``auto``.

    Raises the errors of ``answer_without_domain``.
    """
    heads = spec.all_heads
    if domain in heads.labels:  # a domain may itself be named "auto"
        return _best_labels(domain, heads.labels[domain], domain_probabilities(logits, heads, domain))
    return answer_without_domain(logits, spec)


def answer_without_domain(logits: Logits, spec: ModelSpec) -> list[Answer]:
    """Return an answer for each row of logits, (n, outputs), of a model with several domains.

    If the domains have the same labels, p(label | text) is the sum of p(domain, label | text) over domains, and the
    domain is the most probable one. Else the answer is the most probable (domain, label) pair. A model that does not
    find domains averages p(label | domain, text) over domains.

    Raises:
        UsageError: the model does not find domains, and they have different labels.
    """
    heads = spec.all_heads
    if spec.finds_domains:
        joint = joint_probabilities(logits, heads)
    elif heads.share_labels:  # a mean over domains
        joint = {d: domain_probabilities(logits, heads, d) / len(heads.domains) for d in heads.domains}
    else:
        raise UsageError(
            "this model was not trained to find the domain of a text, and its domains have different labels; name one "
            f"domain (--domain): {', '.join(heads.domains)}, or train it again"
        )
    of_domains = np.stack([probabilities.sum(axis=1) for probabilities in joint.values()], axis=1)
    if heads.share_labels:
        names = heads.labels[heads.domains[0]]
        # By name: domains may list the same labels in different orders.
        aligned = [own[:, [heads.labels[domain].index(name) for name in names]] for domain, own in joint.items()]
        answers = _best_labels(AUTO_DOMAIN, names, np.sum(aligned, axis=0))
        if not spec.finds_domains:
            return answers
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
