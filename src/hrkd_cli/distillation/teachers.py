"""The teacher of each domain: loading, matching its labels to the data, and checking its accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hrkd_cli.choices import Method, TeacherCheckpoints
from hrkd_cli.data.dataset import Dataset
from hrkd_cli.errors import DataError, ModelError, TrainingError
from hrkd_cli.evaluation.provenance import DataProvenance
from hrkd_cli.events import Note
from hrkd_cli.formatting import join_names
from hrkd_cli.json_files import read_json, read_json_or_empty
from hrkd_cli.layout import ModelFiles
from hrkd_cli.models.loading import load_classifier, load_tokenizer
from hrkd_cli.models.model_tokenizer import ModelTokenizer
from hrkd_cli.outputs import absolute_path
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.settings import DistillSettings
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.dev_scoring import score_split
from hrkd_cli.training.plan import check_length
from hrkd_cli.training.tokenized_split import tokenize_split


@dataclass(frozen=True, slots=True)
class Teachers:
    """A teacher for every domain, frozen and in eval mode.

    Attributes:
        models: classifier by domain; domains may share one. A domain that no teacher knows has ``primary``.
        primary: the classifier that is best on average; a pruned student gets its shape and weights from it.
        heads: the outputs of each domain, the same in all models; without labels for a domain that they do not know.
        path: folder of ``primary``.
        folders: folder of each domain's teacher.
        domain_posterior: whether the softmax over all outputs of each model is p(domain, label | text).
    """

    models: dict[str, Any]
    primary: Any
    heads: DomainHeads
    tokenizer: Any
    path: Path
    folders: dict[str, Path]
    domain_posterior: bool


def open_teachers(
    path: Path, dataset: Dataset, *, checkpoints: TeacherCheckpoints, device: torch.device, name: str
) -> Teachers:
    """Load the teacher of every domain of a dataset.

    ``path`` is the folder of a multi-domain classifier, or of a plain classifier with the data's label names; ``name``
    is the teacher's name in messages.

    Raises:
        ModelError: the teacher lacks a domain that has rows, or a label of the data, or cannot be loaded.
        DataError: the data has text pairs and the teacher reads single texts, or the other way around.
    """
    config = read_json(path / ModelFiles.config)
    heads = _match_heads(config, dataset, name)
    primary = _load_frozen(path, device)
    models, folders = dict.fromkeys(dataset.domains, primary), dict.fromkeys(dataset.domains, path)
    if checkpoints is TeacherCheckpoints.DOMAIN:
        for domain in dataset.domains:
            best = path / ModelFiles.best / domain
            if best.is_dir():
                models[domain], folders[domain] = _load_frozen(best, device), best
    posterior = bool((config.get("hrkd") or {}).get("domain_posterior"))  # the best step's of a domain, too
    return Teachers(models, primary, heads, load_tokenizer(path, "teacher"), path, folders, posterior)


def _match_heads(config: Mapping[str, Any], dataset: Dataset, name: str) -> DomainHeads:
    """Match a teacher's outputs to the domains and labels of a dataset, by name."""
    heads = DomainHeads.from_config(config)
    if heads is None:
        return DomainHeads.match_labels(config, dataset.labels, f"teacher {name}")
    known = [domain for domain in dataset.domains if domain in heads.labels or domain not in dataset.new_domains]
    for domain in known:
        labels = dataset.labels[domain]
        if domain not in heads.labels:
            raise ModelError(
                f"teacher {name}: it was not trained on domain {domain!r}; its domains are {', '.join(heads.domains)}"
            )
        if heads.labels[domain] != labels:
            raise ModelError(
                f"teacher {name}: in domain {domain!r} its labels are {', '.join(heads.labels[domain])}, but the "
                f"data's are {', '.join(labels)}"
            )
    pair = bool(config["hrkd"].get("pair", False))
    if pair != dataset.has_pairs:
        expected, actual = ("two texts", "one") if pair else ("one text", "two")
        raise DataError(f"teacher {name} reads {expected} per row, but the data has {actual}")
    labels_by_domain = {domain: dataset.labels[domain] if domain in known else () for domain in dataset.domains}
    columns = {domain: heads.columns[domain] if domain in known else () for domain in dataset.domains}
    return DomainHeads(labels_by_domain, columns, heads.num_outputs)


def check_teachers(
    teachers: Teachers,
    dataset: Dataset,
    settings: DistillSettings,
    *,
    max_length: int,
    name: str,
    context: TrainContext,
) -> ModelTokenizer:
    """Check that the teachers fit the data and are accurate enough to learn from; return their tokenizer.

    Raises:
        TrainingError: a teacher is not clearly better than the majority class of its domain.
    """
    made_from = read_json_or_empty(teachers.path / ModelFiles.run).get("data") or {}
    folder = absolute_path(made_from.get("path") or "", teachers.path)
    has_rows = set(teachers.heads.domains) - set(dataset.new_domains)
    if has_rows and DataProvenance(folder, made_from.get("fingerprint")).differs_from(dataset):
        role = "teacher" if settings.extend is None else "student"
        text = f"{role} {name} was made from other data: rows that are held out here may be among its training rows"
        context.on_event(Note(text, warning=True))
    if new := [domain for domain, labels in teachers.heads.labels.items() if not labels]:
        weights = "weighted by its domain posterior" if teachers.domain_posterior else "with equal weights"
        text = f"{join_names(new)}: no labels; learned from the mean of the teacher's other heads, {weights}"
        context.on_event(Note(text))
    check_length(max_length, teachers.primary, teachers.tokenizer, f"teacher {name}")
    tokenizer = ModelTokenizer(teachers.primary, teachers.tokenizer, max_length, settings.truncate)
    truncate = (getattr(teachers.primary.config, "hrkd", None) or {}).get("truncate", settings.truncate)
    if truncate != settings.truncate:
        text = f"teacher {name} was trained with --truncate {truncate}; this run uses --truncate {settings.truncate}"
        context.on_event(Note(text, warning=True))
    if settings.method is not Method.LABELS:  # it needs only the teacher's weights and tokenizer
        dev = tokenize_split(dataset, "dev", tokenizer)
        context.on_event(Note("scoring the teacher on the dev split"))
        scores = score_split(teachers.models, dev, teachers.heads, context)
        weak = {
            domain: problem
            for domain, own in scores.items()
            if (problem := _find_weakness(domain, own.accuracy, dev.labels[domain], context))
        }
        if weak:
            first, *others = weak
            problem = f"teacher {name}: {weak[first]}" + (f"; also too low in {join_names(others)}" if others else "")
            if not settings.allow_weak_teacher:
                raise TrainingError(f"{problem}; train it longer, or add --allow-weak-teacher to the same command")
            context.on_event(Note(problem, warning=True))
    return tokenizer


def _find_weakness(domain: str, accuracy: float, labels: np.ndarray, context: TrainContext) -> str | None:
    """Return a message if a teacher's accuracy does not exceed the majority class's by more than one standard error.

    With m the fraction of the most common label among n dev rows, the limit is ``m + sqrt(m (1 - m) / n)``.
    """
    majority = float(np.bincount(labels).max() / len(labels))
    if majority == 1:
        text = f"all dev rows of domain {domain!r} have the same label, so its teacher cannot be checked"
        context.on_event(Note(text, warning=True))
        return None
    margin = math.sqrt(majority * (1 - majority) / len(labels))
    if accuracy > majority + margin:
        return None
    return (
        f"in domain {domain!r} its dev accuracy is {accuracy:.1%}, not clearly above the "
        f"{majority:.1%} of the most common label: {len(labels):,} dev rows require a margin of {100 * margin:.1f} "
        "points (a standard error)"
    )


def _load_frozen(path: Path, device: torch.device) -> Any:
    return load_classifier(path, None, role="teacher").requires_grad_(False).to(device).eval()
