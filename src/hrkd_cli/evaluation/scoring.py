"""One model over one dataset: labels, then scores."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from hrkd_cli.data.dataset import Dataset
from hrkd_cli.errors import DataError
from hrkd_cli.evaluation.metrics import DomainScores, average, score_domain
from hrkd_cli.events import OnEvent, Progress, ignore
from hrkd_cli.predict.backend import Backend
from hrkd_cli.predict.heads import DomainHeads, choose

PADDED_BATCH = 32
"""Rows of a padded batch, each padded to the model's full length: the worst case of a server that batches."""

Labels = dict[str, npt.NDArray[np.intp]]
"""By domain: a position in ``heads.labels[domain]`` for each row."""

_CHUNK = 8 * PADDED_BATCH  # rows between two progress events


def fit_heads(backend: Backend, dataset: Dataset, split: str, model: str, data: str) -> DomainHeads:
    """Return which outputs answer for which domain that has rows in the split.

    A classifier that is not a multi-domain one answers for every domain, its labels matched by name.

    Raises:
        DataError: the split is empty, or has a domain, a label or a number of texts that the model does not know.
        ModelError: a classifier that is not ours lacks a label of the data.
    """
    spec = backend.spec
    wanted = {domain: dataset.labels[domain] for domain in scored_domains(dataset, split, data)}
    if spec.pair is not None and spec.pair != dataset.pair:
        reads, has = ("two texts", "one") if spec.pair else ("one text", "two")
        raise DataError(f"{data}: a row has {has} but the model {model} reads {reads}; give data of the same task")
    if spec.heads is None:
        return DomainHeads.for_foreign(spec.config, wanted, model, whole=True)
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


def scored_domains(dataset: Dataset, split: str, data: str) -> tuple[str, ...]:
    """Return the domains that have rows in the split.

    Raises:
        DataError: none has.
    """
    domains = tuple(domain for domain in dataset.domains if len(dataset.split(domain, split)))
    if not domains:
        there = sorted({name for rows in dataset.rows.values() for name, part in rows.items() if len(part)})
        hint = f"it has {', '.join(there)}; choose one with --split" if there else "it is empty"
        raise DataError(f"{data}: no rows in the {split} split; {hint}")
    return domains


def predict_labels(
    backend: Backend,
    heads: DomainHeads,
    dataset: Dataset,
    split: str,
    *,
    padded: bool = False,
    task: str = "scoring",
    on_event: OnEvent = ignore,
) -> Labels:
    """Label the rows of a split.

    Args:
        backend: a loaded classifier.
        heads: outputs by domain.
        dataset: the data.
        split: which part of it; domains without rows in it are left out.
        padded: in batches of ``PADDED_BATCH``, each padded to the model's full length, rather than in the way that is
            best for the backend (an ONNX graph: one row at a time).
        task: name of the job in progress events.
        on_event: told how far it is.
    """
    rows_of = {domain: dataset.split(domain, split) for domain in dataset.domains}
    rows_of = {domain: rows for domain, rows in rows_of.items() if len(rows)}
    total, done = sum(map(len, rows_of.values())), 0
    batch_size = PADDED_BATCH if padded else backend.best_batch
    pad_to = backend.encoder.max_length if padded else None
    labels: Labels = {}
    for domain, rows in rows_of.items():
        parts = []
        for start in range(0, len(rows), _CHUNK):
            texts = rows.texts[start : start + _CHUNK]
            pairs = rows.pairs[start : start + _CHUNK] if rows.pairs is not None else None
            logits = backend.logits(texts, pairs, batch_size=batch_size, pad_to=pad_to)
            parts.append(choose(logits, heads, domain))
            done += len(texts)
            on_event(Progress(task, done, total))
        labels[domain] = np.concatenate(parts)
    return labels


def score_labels(labels: Labels, heads: DomainHeads, dataset: Dataset, split: str) -> dict[str, DomainScores]:
    """Compare labels with the right ones, domain by domain."""
    scores = {}
    for domain, predicted in labels.items():
        position = {name: index for index, name in enumerate(heads.labels[domain])}
        truth = np.array([position[name] for name in dataset.split(domain, split).labels], dtype=np.intp)
        scores[domain] = score_domain(truth, predicted, heads.labels[domain])
    return scores


def mean_accuracy(scores: Mapping[str, DomainScores]) -> float:
    """Return the unweighted mean of the domains' accuracies."""
    return average(list(scores.values())).accuracy


def disagreement(one: Labels, other: Labels) -> float:
    """Return the share of rows, over all domains together, whose labels differ."""
    rows = sum(map(len, one.values()))
    return sum(int((one[domain] != other[domain]).sum()) for domain in one) / rows
