"""From logits to labels: shared by prediction and evaluation, so that both give the same ones."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hrkd_cli.errors import UsageError
from hrkd_cli.predict.backend import FloatArray
from hrkd_cli.predict.heads import DomainHeads

DoubleArray = npt.NDArray[np.float64]


def choose(logits: FloatArray, heads: DomainHeads, domain: str) -> npt.NDArray[np.intp]:
    """Return for each row the position in ``heads.labels[domain]`` of its largest logit, [n]."""
    best: npt.NDArray[np.intp] = logits[:, list(heads.columns[domain])].argmax(axis=1)
    return best


def probabilities(logits: FloatArray, heads: DomainHeads, domain: str) -> DoubleArray:
    """Return the softmax over the domain's own columns, [n, labels], in the order of ``heads.labels[domain]``."""
    own = logits[:, list(heads.columns[domain])].astype(np.float64)
    exponentials = np.exp(own - own.max(axis=1, keepdims=True))
    shares: DoubleArray = exponentials / exponentials.sum(axis=1, keepdims=True)
    return shares


def mean_probabilities(logits: FloatArray, heads: DomainHeads) -> tuple[tuple[str, ...], DoubleArray]:
    """Return the label names and the mean over all domains of their probabilities, [n, labels].

    Raises:
        UsageError: the domains have different labels.
    """
    first = heads.domains[0]
    names = heads.labels[first]
    total = np.zeros((len(logits), len(names)))
    for domain in heads.domains:
        own = heads.labels[domain]
        if set(own) != set(names):
            raise UsageError(
                f"domain 'any' needs the same labels in every domain, but {first!r} has {', '.join(names)} and "
                f"{domain!r} has {', '.join(own)}; name one domain (--domain): {', '.join(heads.domains)}"
            )
        # By name: two domains may list the same labels in a different order.
        total += probabilities(logits, heads, domain)[:, [own.index(name) for name in names]]
    return names, total / len(heads.domains)
