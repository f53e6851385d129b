"""Run one model over labeled rows: logits, labels, then scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from hrkd_cli.data.dataset import Dataset, TextRows
from hrkd_cli.errors import DataError
from hrkd_cli.evaluation.metrics import AccuracyDifference, DomainScores, paired_difference, score_domain
from hrkd_cli.events import OnEvent, Progress, ignore
from hrkd_cli.predict.backend import Backend
from hrkd_cli.predict.heads import DomainHeads, Logits, predict_label_indices

PADDED_BATCH_SIZE = 32
"""Batch size of padded scoring. Rows are padded to the maximum length, the worst case of a batching server."""

DomainLogits = Mapping[str, Logits]  # logits of all outputs for the rows of each domain, (n, outputs)
PredictedLabels = dict[str, npt.NDArray[np.str_]]  # predicted label names of the rows, by domain

_CHUNK_SIZE = 8 * PADDED_BATCH_SIZE  # rows between progress events


def select_split(dataset: Dataset, split: str, data_name: str) -> dict[str, TextRows]:
    """Return the rows of a split by domain, without empty domains; ``data_name`` names the dataset in errors.

    Raises:
        DataError: the split has no rows.
    """
    rows = {domain: dataset.split(domain, split) for domain in dataset.domains}
    rows = {domain: part for domain, part in rows.items() if len(part)}
    if not rows:
        splits = sorted({name for parts in dataset.rows.values() for name, part in parts.items() if len(part)})
        raise DataError(f"{data_name}: no rows in the {split} split; it has {', '.join(splits) or 'none'}")
    return rows


def match_heads(
    backend: Backend, dataset: Dataset, rows: Mapping[str, TextRows], model_name: str, data_name: str
) -> DomainHeads:
    """Return the model's heads for the domains of the rows.

    A classifier that is not multi-domain predicts for every domain; its labels are matched by name.

    Raises:
        DataError: a multi-domain model lacks a domain or label of the rows, or reads a different number of texts.
        ModelError: another classifier lacks a label of the data.
    """
    spec = backend.spec
    data_labels = {domain: dataset.labels[domain] for domain in rows}
    if spec.pair is not None and spec.pair != dataset.has_pairs:
        rows_have, reads = ("one text", "two texts") if spec.pair else ("two texts", "one text")
        raise DataError(f"{data_name}: a row has {rows_have} but {model_name} reads {reads}; use data of the same task")
    if spec.heads is None:
        return DomainHeads.match_labels(spec.config, data_labels, model_name, keep_extra=True)
    for domain, labels in data_labels.items():
        known = spec.heads.labels.get(domain)
        if known is None:
            raise DataError(
                f"{data_name}: domain {domain!r} is not one of {model_name}'s: {', '.join(spec.heads.domains)}; "
                "exclude it with hrkd prepare --domains, or train a model on it"
            )
        if missing := sorted(set(labels) - set(known)):
            raise DataError(
                f"{data_name}: label {missing[0]!r} of domain {domain!r} is not one of {model_name}'s: "
                f"{', '.join(known)}; rename it with hrkd prepare --rename-label OLD=NEW"
            )
    return spec.heads


def predict_logits(
    backend: Backend,
    rows: Mapping[str, TextRows],
    *,
    padded: bool = False,
    task: str = "scoring",
    on_event: OnEvent = ignore,
) -> DomainLogits:
    """Run a model over rows in batches of the backend's default size (1 for an ONNX file).

    With ``padded``, in batches of ``PADDED_BATCH_SIZE`` rows that are padded to the model's maximum length. ``task``
    names the job in progress events.
    """
    total, done = sum(map(len, rows.values())), 0
    batch_size = PADDED_BATCH_SIZE if padded else backend.default_batch_size
    pad_to = backend.tokenizer.max_length if padded else None
    logits = {}
    for domain, domain_rows in rows.items():
        chunks = []
        for start in range(0, len(domain_rows), _CHUNK_SIZE):
            texts = domain_rows.texts[start : start + _CHUNK_SIZE]
            pairs = domain_rows.pairs[start : start + _CHUNK_SIZE] if domain_rows.pairs is not None else None
            chunks.append(backend.logits(texts, pairs, batch_size=batch_size, pad_to=pad_to))
            done += len(texts)
            on_event(Progress(task, done, total))
        logits[domain] = np.concatenate(chunks)
    return logits


def best_labels(logits: DomainLogits, heads: DomainHeads) -> PredictedLabels:
    """Return the best label of each row in the head of its domain."""
    return {
        domain: np.array(heads.labels[domain], dtype=np.str_)[predict_label_indices(own, heads, domain)]
        for domain, own in logits.items()
    }


def score_labels(
    labels: PredictedLabels, names: Mapping[str, Sequence[str]], rows: Mapping[str, TextRows]
) -> dict[str, DomainScores]:
    """Score predicted labels by domain; ``names`` are the label names that each domain's head can predict."""
    return {domain: score_domain(rows[domain].labels, own, names[domain]) for domain, own in labels.items()}


def count_domains(found: PredictedLabels, domains: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return the confusion matrix: for the rows of each domain, how often each of ``domains`` was found."""
    return {name: {domain: int((own == domain).sum()) for domain in domains} for name, own in found.items()}


def compare_accuracy(
    labels: PredictedLabels, first: PredictedLabels, rows: Mapping[str, TextRows]
) -> AccuracyDifference:
    """Return the mean accuracy over domains of predicted labels minus that of the first model's."""
    one, other = ({domain: own == rows[domain].labels for domain, own in each.items()} for each in (labels, first))
    return paired_difference(one, other)


def agreement(first: PredictedLabels, second: PredictedLabels) -> float:
    """Return the fraction of all rows, over all domains, for which two models predict the same label."""
    return float(np.mean(np.concatenate([first[domain] == second[domain] for domain in first])))
