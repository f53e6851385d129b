"""Domain heads: which columns of the logits belong to which domain and label, and probabilities from logits.

A multi-domain classifier has one output for every (domain, label) pair. ``config.json`` names them in ``id2label``
(``"books/negative"``) and lists them under ``"hrkd": {"domains": {"books": ["negative", "positive"], ...}}``. The head
of a domain is a selection of columns. In a classifier with plain labels, all domains share the same columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from hrkd_cli.errors import ModelError
from hrkd_cli.predict.name_validation import validate_names

FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]
Logits = FloatArray | DoubleArray  # of a model, or calibrated


@dataclass(frozen=True, slots=True)
class DomainHeads:
    """Columns of the logits, by domain.

    Attributes:
        labels: label names by domain; domains and labels are sorted by name.
        columns: output columns by domain, in the order of ``labels``.
        num_outputs: outputs of the model.
    """

    labels: dict[str, tuple[str, ...]]
    columns: dict[str, tuple[int, ...]]
    num_outputs: int

    @classmethod
    def build(cls, labels: Mapping[str, Iterable[str]]) -> DomainHeads:
        """Assign one output to every (domain, label) pair, in the order of their names."""
        ordered = {domain: tuple(sorted(labels[domain])) for domain in sorted(labels)}
        columns, num_outputs = {}, 0
        for domain, names in ordered.items():
            columns[domain] = tuple(range(num_outputs, num_outputs + len(names)))
            num_outputs += len(names)
        return cls(ordered, columns, num_outputs)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> DomainHeads | None:
        """Read the heads from a ``config.json``; None if the model is not a multi-domain classifier.

        Raises:
            ModelError: the ``hrkd`` entry and ``id2label`` contradict each other, or a name is not allowed.
        """
        domains = (config.get("hrkd") or {}).get("domains")
        if not domains:
            return None
        id2label = id_to_label(config)
        label2id = {name: index for index, name in id2label.items()}
        labels = {domain: tuple(domains[domain]) for domain in sorted(domains)}
        validate_names(labels, map(str, chain(*labels.values())), "config.json", ModelError)
        try:
            columns = {d: tuple(label2id[f"{d}/{label}"] for label in names) for d, names in labels.items()}
        except KeyError as error:
            raise ModelError(f"config.json: hrkd.domains lists an output {error} that id2label does not name") from None
        return cls(labels, columns, len(id2label))

    @classmethod
    def match_labels(
        cls,
        config: Mapping[str, Any],
        labels: Mapping[str, Iterable[str]],
        model_name: str,
        *,
        keep_extra: bool = False,
    ) -> DomainHeads:
        """Match the outputs of a classifier with plain labels to the labels of every domain, by name.

        Names match exactly, else ignoring case. With ``keep_extra``, labels that the data does not have remain possible
        answers, as in prediction.

        Raises:
            ModelError: the model lacks a label of the data.
        """
        label2id = {label: index for index, label in id_to_label(config).items()}
        case_insensitive = {label.casefold(): index for label, index in label2id.items()}
        ordered, columns = {}, {}
        for domain in sorted(labels):
            matched: dict[str, int] = {}
            for label in sorted(labels[domain]):
                index = label2id.get(label, case_insensitive.get(label.casefold()))
                if index is None:
                    raise ModelError(
                        f"{model_name}: no label {label!r} (domain {domain!r}), only {', '.join(sorted(label2id))}; "
                        "train a model on this data with hrkd teach, or rename the labels"
                    )
                matched[label] = index
            if keep_extra:
                matched |= {label: index for label, index in label2id.items() if index not in matched.values()}
            ordered[domain] = tuple(sorted(matched))
            columns[domain] = tuple(matched[label] for label in ordered[domain])
        return cls(ordered, columns, len(label2id))

    def select(self, domains: Iterable[str]) -> DomainHeads:
        """Return the heads of these domains, with the same columns."""
        names = sorted(domains)
        return DomainHeads({d: self.labels[d] for d in names}, {d: self.columns[d] for d in names}, self.num_outputs)

    @property
    def domains(self) -> tuple[str, ...]:
        """Domain names, sorted."""
        return tuple(self.labels)

    @property
    def share_labels(self) -> bool:
        """Whether all domains have the same labels."""
        return len(set(map(frozenset, self.labels.values()))) == 1

    def to_config(self) -> dict[str, Any]:
        """Return the entries for ``config.json``: ``id2label``, ``label2id`` and ``hrkd.domains``."""
        id2label = {}
        for domain, labels in self.labels.items():
            for column, label in zip(self.columns[domain], labels, strict=True):
                id2label[column] = f"{domain}/{label}"
        return {
            "id2label": dict(sorted(id2label.items())),
            "label2id": {name: index for index, name in sorted(id2label.items())},
            "domains": {domain: list(labels) for domain, labels in self.labels.items()},
        }


def id_to_label(config: Mapping[str, Any]) -> dict[int, str]:
    """Return ``id2label`` with integer keys (JSON has string keys); transformers' defaults if the config has none."""
    entries = config.get("id2label") or {index: f"LABEL_{index}" for index in range(config.get("num_labels") or 2)}
    return {int(index): str(name) for index, name in entries.items()}


def predict_label_indices(logits: Logits, heads: DomainHeads, domain: str) -> npt.NDArray[np.intp]:
    """Return the index of each row's best label in ``heads.labels[domain]``, (n,)."""
    indices: npt.NDArray[np.intp] = logits[:, list(heads.columns[domain])].argmax(axis=1)
    return indices


def domain_probabilities(logits: Logits, heads: DomainHeads, domain: str) -> DoubleArray:
    """Return the softmax over the domain's columns, (n, labels), in the order of ``heads.labels[domain]``."""
    return _softmax(logits[:, list(heads.columns[domain])].astype(np.float64))


def domain_logits(logits: Logits, heads: DomainHeads) -> DoubleArray:
    """Return the logits of the domains, (n, D): the logsumexp over each domain's columns."""
    wide = logits.astype(np.float64)
    return np.stack([np.logaddexp.reduce(wide[:, list(own)], axis=1) for own in heads.columns.values()], axis=1)


def joint_probabilities(logits: Logits, heads: DomainHeads) -> dict[str, DoubleArray]:
    """Return p(domain, label | text) by domain, each (n, labels) in the order of ``heads.labels``.

    They sum to 1 over all domains, and over one domain's labels to p(domain | text).
    """
    of_domains = _softmax(domain_logits(logits, heads))
    return {d: of_domains[:, [n]] * domain_probabilities(logits, heads, d) for n, d in enumerate(heads.columns)}


def _softmax(logits: DoubleArray) -> DoubleArray:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: DoubleArray = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities
