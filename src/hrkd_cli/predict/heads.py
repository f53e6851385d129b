"""Which output of a classifier belongs to which (domain, label), and the way from logits to labels.

A multi-domain classifier has one output for every (domain, label) pair; ``config.json`` names them in ``id2label`` as
``"books/negative"`` and lists them under ``"hrkd": {"domains": {"books": ["negative", "positive"], ...}}``. A domain's
logits are a selection of columns. A classifier that is not ours (plain labels) serves every domain with the same
columns.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hrkd_cli.errors import ModelError, UsageError

FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class DomainHeads:
    """Columns of the logits by domain.

    Attributes:
        labels: label names by domain, sorted by name; the domains are sorted by name too.
        columns: for each domain, the output columns in the order of ``labels``.
        num_outputs: number of outputs of the model.
    """

    labels: dict[str, tuple[str, ...]]
    columns: dict[str, tuple[int, ...]]
    num_outputs: int

    @classmethod
    def build(cls, labels: Mapping[str, Iterable[str]]) -> DomainHeads:
        """Lay out one output for every (domain, label) pair, in name order."""
        ordered = {domain: tuple(sorted(labels[domain])) for domain in sorted(labels)}
        numbers = itertools.count()
        columns = {domain: tuple(itertools.islice(numbers, len(names))) for domain, names in ordered.items()}
        return cls(ordered, columns, next(numbers))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> DomainHeads | None:
        """Read the layout from a ``config.json``; None when the model is not a multi-domain one.

        Raises:
            ModelError: the ``hrkd`` entry and ``id2label`` contradict each other.
        """
        domains = (config.get("hrkd") or {}).get("domains")
        if not domains:
            return None
        id2label = id_to_label(config)
        position = {name: index for index, name in id2label.items()}
        labels = {domain: tuple(domains[domain]) for domain in sorted(domains)}
        try:
            columns = {d: tuple(position[f"{d}/{label}"] for label in names) for d, names in labels.items()}
        except KeyError as error:
            raise ModelError(f"config.json: hrkd.domains lists an output {error} that id2label does not name") from None
        return cls(labels, columns, len(id2label))

    @classmethod
    def match_labels(
        cls, config: Mapping[str, Any], labels: Mapping[str, Iterable[str]], name: str, *, keep_extra: bool = False
    ) -> DomainHeads:
        """Let a classifier with plain labels answer for every domain, its outputs matched to the data's by name.

        Names are matched exactly, else ignoring case. With ``keep_extra``, labels that the data does not have stay
        possible answers, as in prediction. Errors call the model ``name``.

        Raises:
            ModelError: a label of the data is not among the model's.
        """
        names = {name: index for index, name in id_to_label(config).items()}
        folded = {name.casefold(): index for name, index in names.items()}
        ordered = {domain: tuple(sorted(labels[domain])) for domain in sorted(labels)}
        columns = {}
        for domain, wanted in ordered.items():
            found = {name: names.get(name, folded.get(name.casefold(), -1)) for name in wanted}
            if -1 in found.values():
                missing = next(name for name, index in found.items() if index == -1)
                raise ModelError(
                    f"{name}: it has no label {missing!r} (domain {domain!r}); its labels are "
                    f"{', '.join(sorted(names))}; teach a model on this data with hrkd teach, or rename the labels"
                )
            if keep_extra:
                found |= {name: index for name, index in names.items() if index not in found.values()}
                ordered[domain] = tuple(sorted(found))
            columns[domain] = tuple(found[name] for name in ordered[domain])
        return cls(ordered, columns, len(names))

    @property
    def domains(self) -> tuple[str, ...]:
        """Domain names, sorted."""
        return tuple(self.labels)

    def to_config(self) -> dict[str, Any]:
        """Return the entries for ``config.json``: ``id2label``, ``label2id`` and ``hrkd.domains``."""
        pairs = {c: f"{d}/{n}" for d in self.labels for c, n in zip(self.columns[d], self.labels[d], strict=True)}
        id2label = dict(sorted(pairs.items()))
        return {
            "id2label": id2label,
            "label2id": {name: index for index, name in id2label.items()},
            "domains": {domain: list(names) for domain, names in self.labels.items()},
        }


def id_to_label(config: Mapping[str, Any]) -> dict[int, str]:
    """Return ``id2label`` with integer keys (JSON has text keys); transformers' own names where a config has none."""
    entries = config.get("id2label") or {index: f"LABEL_{index}" for index in range(config.get("num_labels") or 2)}
    return {int(index): str(name) for index, name in entries.items()}


def predict_label_indices(logits: FloatArray, heads: DomainHeads, domain: str) -> npt.NDArray[np.intp]:
    """Return for each row the position in ``heads.labels[domain]`` of its largest logit, [n]."""
    best: npt.NDArray[np.intp] = logits[:, list(heads.columns[domain])].argmax(axis=1)
    return best


def domain_probabilities(logits: FloatArray, heads: DomainHeads, domain: str) -> DoubleArray:
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
    shares = []
    for domain, own in heads.labels.items():
        if set(own) != set(names):
            raise UsageError(
                f"domain 'any' needs the same labels in every domain, but {first!r} has {', '.join(names)} and "
                f"{domain!r} has {', '.join(own)}; name one domain (--domain): {', '.join(heads.domains)}"
            )
        # By name: two domains may list the same labels in a different order.
        shares.append(domain_probabilities(logits, heads, domain)[:, [own.index(name) for name in names]])
    mean: DoubleArray = np.mean(shares, axis=0)
    return names, mean
