"""One model over labelled rows: labels, then scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from hrkd_cli.data.dataset import Dataset, TextRows
from hrkd_cli.errors import DataError
from hrkd_cli.evaluation.metrics import DomainScores, score_domain
from hrkd_cli.events import OnEvent, Progress, ignore
from hrkd_cli.predict.backend import Backend
from hrkd_cli.predict.heads import DomainHeads, predict_label_indices

PADDED_BATCH_SIZE = 32
"""Rows of a padded batch, each padded to the model's full length: the worst case of a server that batches."""

Labels = dict[str, npt.NDArray[np.str_]]
"""Label names of the rows, by domain."""

_CHUNK = 8 * PADDED_BATCH_SIZE  # rows between two progress events


def select_split(dataset: Dataset, split: str, data: str) -> dict[str, TextRows]:
    """Return the rows of a split by domain, without domains that have none.

    Raises:
        DataError: no domain has any; ``data`` is what to call the dataset.
    """
    rows = {domain: dataset.split(domain, split) for domain in dataset.domains}
    rows = {domain: part for domain, part in rows.items() if len(part)}
    if not rows:
        there = sorted({name for parts in dataset.rows.values() for name, part in parts.items() if len(part)})
        hint = f"it has {', '.join(there)}; choose one with --split" if there else "it is empty"
        raise DataError(f"{data}: no rows in the {split} split; {hint}")
    return rows


def match_heads(backend: Backend, dataset: Dataset, rows: Mapping[str, TextRows], model: str, data: str) -> DomainHeads:
    """Return which outputs answer for which domain of the rows.

    A classifier that is not a multi-domain one answers for every domain, its labels matched by name.

    Raises:
        DataError: the rows have a domain, a label or a number of texts that the model does not know.
        ModelError: a classifier that is not ours lacks a label of the data.
    """
    spec = backend.spec
    wanted = {domain: dataset.labels[domain] for domain in rows}
    if spec.pair is not None and spec.pair != dataset.has_pairs:
        reads, has = ("two texts", "one") if spec.pair else ("one text", "two")
        raise DataError(f"{data}: a row has {has} but the model {model} reads {reads}; give data of the same task")
    if spec.heads is None:
        return DomainHeads.match_labels(spec.config, wanted, model, keep_extra=True)
    for domain, labels in wanted.items():
        known = spec.heads.labels.get(domain)
        if known is None:
            raise DataError(
                f"{data}: domain {domain!r} is not one of {model}'s: {', '.join(spec.heads.domains)}; leave it out "
                "with hrkd prepare --domains, or teach a model that knows it"
            )
        if missing := sorted(set(labels) - set(known)):
            raise DataError(
                f"{data}: label {missing[0]!r} of domain {domain!r} is not one of {model}'s: {', '.join(known)}; "
                "rename it in the data"
            )
    return spec.heads


def predict_labels(
    backend: Backend,
    heads: DomainHeads,
    rows: Mapping[str, TextRows],
    *,
    padded: bool = False,
    task: str = "scoring",
    on_event: OnEvent = ignore,
) -> Labels:
    """Label rows in the way that is best for the backend (an ONNX graph: one row at a time).

    With ``padded``, in batches of ``PADDED_BATCH_SIZE`` rows, each padded to the model's full length. ``task`` names
    the job in progress events.
    """
    total, done = sum(map(len, rows.values())), 0
    batch_size = PADDED_BATCH_SIZE if padded else backend.default_batch_size
    pad_to = backend.tokenizer.max_length if padded else None
    labels: Labels = {}
    for domain, own in rows.items():
        parts = []
        for start in range(0, len(own), _CHUNK):
            texts = own.texts[start : start + _CHUNK]
            pairs = own.pairs[start : start + _CHUNK] if own.pairs is not None else None
            logits = backend.logits(texts, pairs, batch_size=batch_size, pad_to=pad_to)
            parts.append(predict_label_indices(logits, heads, domain))
            done += len(texts)
            on_event(Progress(task, done, total))
        labels[domain] = np.array(heads.labels[domain], dtype=np.str_)[np.concatenate(parts)]
    return labels


def score_labels(
    labels: Labels, names: Mapping[str, Sequence[str]], rows: Mapping[str, TextRows]
) -> dict[str, DomainScores]:
    """Compare labels with the right ones; ``names`` are all that could have been given, by domain."""
    return {domain: score_domain(rows[domain].labels, own, names[domain]) for domain, own in labels.items()}


def agreement(one: Labels, other: Labels) -> float:
    """Return the share of rows, over all domains together, whose labels are equal."""
    return float(np.mean(np.concatenate([one[domain] == other[domain] for domain in one])))
