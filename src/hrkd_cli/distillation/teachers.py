"""The teacher of each domain: opened, matched to the data, and scored before anyone learns from it."""

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
from hrkd_cli.events import Note
from hrkd_cli.layout import MODEL
from hrkd_cli.models.encoding import Encoder, make_encoder
from hrkd_cli.models.loading import load_classifier, load_tokenizer
from hrkd_cli.predict.folder import read_json, read_json_or_empty
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.settings import DistillSettings
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.rows import encode_split
from hrkd_cli.training.scoring import check_length, score


@dataclass(frozen=True, slots=True)
class Teachers:
    """A teacher for every domain, frozen and in eval mode.

    Attributes:
        models: classifier by domain; domains may share one.
        root: the one that is best on average, which shapes and starts a cut student.
        heads: outputs by domain, of every one of the models.
        tokenizer: theirs.
        path: folder of ``root``.
        folders: folder of each domain's teacher.
    """

    models: dict[str, Any]
    root: Any
    heads: DomainHeads
    tokenizer: Any
    path: Path
    folders: dict[str, Path]


def open_teachers(
    path: Path, dataset: Dataset, *, checkpoints: TeacherCheckpoints, device: torch.device, name: str
) -> Teachers:
    """Open the teacher of every domain of a dataset.

    ``path`` is the folder of a classifier: one of ours, or one with plain labels that are the data's by name. ``name``
    is what the user called it.

    Raises:
        ModelError: it does not know a domain or a label of the data, or cannot be opened.
        DataError: the data has pairs and the teacher takes single texts, or the other way round.
    """
    heads = _match_heads(read_json(path / MODEL.config), dataset, name)
    root = _frozen(path, device)
    models, folders = dict.fromkeys(dataset.domains, root), dict.fromkeys(dataset.domains, path)
    if checkpoints is TeacherCheckpoints.DOMAIN:
        for domain in dataset.domains:
            best = path / MODEL.best / domain
            if best.is_dir():
                models[domain], folders[domain] = _frozen(best, device), best
    return Teachers(models, root, heads, load_tokenizer(path, "teacher"), path, folders)


def _match_heads(config: Mapping[str, Any], dataset: Dataset, name: str) -> DomainHeads:
    """Match a teacher's outputs to the domains and labels of a dataset, by name."""
    ours = DomainHeads.from_config(config)
    if ours is None:
        return DomainHeads.for_foreign(config, dataset.labels, f"teacher {name}")
    for domain, labels in dataset.labels.items():
        if domain not in ours.labels:
            raise ModelError(
                f"teacher {name}: it was not taught the domain {domain!r}; it knows {', '.join(ours.domains)}"
            )
        if ours.labels[domain] != labels:
            raise ModelError(
                f"teacher {name}: in domain {domain!r} it knows the labels {', '.join(ours.labels[domain])}, the data "
                f"has {', '.join(labels)}"
            )
    pair = bool(config["hrkd"].get("pair", False))
    if pair != dataset.pair:
        wants, has = ("two texts", "one") if pair else ("one text", "two")
        raise DataError(f"teacher {name} takes {wants} a row, and the data has {has}")
    columns = {domain: ours.columns[domain] for domain in dataset.domains}
    return DomainHeads(dict(dataset.labels), columns, ours.size)


def check_teachers(
    teachers: Teachers, dataset: Dataset, settings: DistillSettings, *, name: str, context: TrainContext
) -> Encoder:
    """Make sure that the teachers have something to teach; return their encoder.

    Raises:
        TrainingError: one is not clearly above the majority class of its domain.
    """
    made_from = (read_json_or_empty(teachers.path / MODEL.run).get("data") or {}).get("fingerprint")
    if made_from is not None and dataset.path is not None and made_from != dataset.fingerprint:
        text = f"teacher {name} was made from other data: rows held out here may be among those that it learnt from"
        context.on_event(Note(text, warning=True))
    check_length(settings.max_length, teachers.root, teachers.tokenizer, f"teacher {name}")
    encoder = make_encoder(teachers.root, teachers.tokenizer, settings.max_length, settings.truncate)
    taught = (getattr(teachers.root.config, "hrkd", None) or {}).get("truncate", settings.truncate)
    if taught != settings.truncate:
        text = f"teacher {name} was taught with --truncate {taught}; here its texts are cut by {settings.truncate}"
        context.on_event(Note(text, warning=True))
    if settings.method is not Method.LABELS:  # there it gives the student its start and its tokenizer alone
        dev = encode_split(dataset, "dev", encoder)
        context.on_event(Note("scoring the teacher on the dev split"))
        scores = score(teachers.models, dev, teachers.heads, context)
        for domain, scored in scores.items():
            _check_strength(domain, scored.accuracy, dev.labels[domain], settings.allow_weak_teacher, name, context)
    return encoder


def _check_strength(
    domain: str, accuracy: float, labels: np.ndarray, allow_weak: bool, name: str, context: TrainContext
) -> None:
    """Refuse a teacher that is not above the majority class by more than one standard error of its share.

    The share m of n dev rows: ``m + sqrt(m (1 - m) / n)``.
    """
    majority = float(np.bincount(labels).max() / len(labels))
    if majority == 1:
        text = f"domain {domain!r} has one label only in its dev split: whether its teacher is good cannot be seen"
        context.on_event(Note(text, warning=True))
        return
    if accuracy > majority + math.sqrt(majority * (1 - majority) / len(labels)):
        return
    finding = (
        f"teacher {name}: in domain {domain!r} it is right on {accuracy:.1%} of the dev rows, and the most common "
        f"label alone on {majority:.1%} (n={len(labels)})"
    )
    if not allow_weak:
        raise TrainingError(f"{finding}; teach it longer, or go on with --allow-weak-teacher")
    context.on_event(Note(finding, warning=True))


def _frozen(path: Path, device: torch.device) -> Any:
    return load_classifier(path, None, role="teacher").requires_grad_(False).to(device).eval()
