"""The teacher of each domain: opened, matched to the data, scored before anyone learns from it, run on batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hrkd_cli.choices import Means, Method, TeacherCheckpoints
from hrkd_cli.data.dataset import Dataset
from hrkd_cli.errors import DataError, ModelError, TrainingError
from hrkd_cli.events import Note
from hrkd_cli.json_files import read_json, read_json_or_empty
from hrkd_cli.layout import ModelFiles
from hrkd_cli.method import LOSSES, Loss, Outputs, Requirement, active_losses
from hrkd_cli.models.encoding import Batch, Encoder, to_device
from hrkd_cli.models.feature_capture import FeatureCapture
from hrkd_cli.models.loading import load_classifier, load_tokenizer
from hrkd_cli.models.student_init import layer_map
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.settings import DistillSettings
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.dev_scoring import check_length, score
from hrkd_cli.training.rows import EncodedSplit, LabelGather, RowRef, encode_split

BATCH_TOKENS = {"cpu": 1024, "cuda": 65536, "mps": 8192}  # padded tokens of a batch that only the teacher runs


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
    heads = _match_heads(read_json(path / ModelFiles.config), dataset, name)
    root = _frozen(path, device)
    models, folders = dict.fromkeys(dataset.domains, root), dict.fromkeys(dataset.domains, path)
    if checkpoints is TeacherCheckpoints.DOMAIN:
        for domain in dataset.domains:
            best = path / ModelFiles.best / domain
            if best.is_dir():
                models[domain], folders[domain] = _frozen(best, device), best
    return Teachers(models, root, heads, load_tokenizer(path, "teacher"), path, folders)


def _match_heads(config: Mapping[str, Any], dataset: Dataset, name: str) -> DomainHeads:
    """Match a teacher's outputs to the domains and labels of a dataset, by name."""
    ours = DomainHeads.from_config(config)
    if ours is None:
        return DomainHeads.match_labels(config, dataset.labels, f"teacher {name}")
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
    if pair != dataset.has_pairs:
        wants, has = ("two texts", "one") if pair else ("one text", "two")
        raise DataError(f"teacher {name} takes {wants} a row, and the data has {has}")
    columns = {domain: ours.columns[domain] for domain in dataset.domains}
    return DomainHeads(dict(dataset.labels), columns, ours.num_outputs)


def check_teachers(
    teachers: Teachers, dataset: Dataset, settings: DistillSettings, *, name: str, context: TrainContext
) -> Encoder:
    """Make sure that the teachers have something to teach; return their encoder.

    Raises:
        TrainingError: one is not clearly above the majority class of its domain.
    """
    made_from = (read_json_or_empty(teachers.path / ModelFiles.run).get("data") or {}).get("fingerprint")
    if made_from is not None and dataset.path is not None and made_from != dataset.fingerprint:
        text = f"teacher {name} was made from other data: rows held out here may be among those that it learnt from"
        context.on_event(Note(text, warning=True))
    check_length(settings.max_length, teachers.root, teachers.tokenizer, f"teacher {name}")
    encoder = Encoder(teachers.root, teachers.tokenizer, settings.max_length, settings.truncate)
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


@dataclass(frozen=True, slots=True)
class Comparison:
    """What of teacher and student is compared.

    Attributes:
        losses: those that have a weight, with their weights.
        layers: matched teacher layers, 1-based, one for each student layer; empty for logits only.
        width: H, of the teacher.
        pad_to: tokens that all rows are padded to where means run over padding too (released code); else None.
    """

    losses: Mapping[Loss, float]
    layers: tuple[int, ...]
    width: int
    pad_to: int | None

    @classmethod
    def of(cls, settings: DistillSettings, teacher: Any, student: Any) -> Comparison:
        """Read it off resolved settings and the models' configurations."""
        weights = {loss.name: getattr(settings, f"{loss.name}_weight") for loss in LOSSES}
        layers = layer_map(teacher.num_hidden_layers, student.num_hidden_layers) if settings.compares_layers else ()
        losses = active_losses(weights, compare_layers=settings.compares_layers)
        pad_to = settings.max_length if settings.means is Means.RELEASED else None
        return cls(losses, layers, teacher.hidden_size, pad_to)

    def needs(self, *what: Requirement) -> bool:
        """Tell whether a loss looks at any of these."""
        return any(need in loss.requires for loss in self.losses for need in what)


class OnlineTeacher:
    """Runs the teachers on each batch; domains that share weights go through in one forward pass.

    Args:
        teachers: one for each domain.
        comparison: what of them is compared.
        rows: the training data as the teachers see it.
        own_tokenizer: whether the student sees it differently.
        device: where the models are.
    """

    def __init__(
        self,
        teachers: Teachers,
        comparison: Comparison,
        rows: EncodedSplit,
        *,
        own_tokenizer: bool,
        device: torch.device,
    ) -> None:
        self.teachers = teachers
        self.layers = comparison.layers
        self.attention = comparison.needs(Requirement.QUERIES_KEYS)
        self.rows = rows
        self.own_tokenizer = own_tokenizer
        self.pad_to = comparison.pad_to
        self.device = device
        models = teachers.models.values()
        self.captures = {id(model): FeatureCapture(model, self.layers, attention=self.attention) for model in models}
        self.domains = list(teachers.heads.domains)
        self.columns = LabelGather(teachers.heads, device)

    def load(self, refs: Sequence[RowRef], batch: Batch) -> Callable[[], Outputs]:
        """Read what is needed for some rows, in any thread; return a function that gives their outputs.

        ``batch`` has the same rows as the student sees them.
        """
        if self.own_tokenizer:
            own = [self.rows.encoded[domain][row] for domain, row in refs]
            batch = self.rows.encoder.collate(own, self.device, pad_to=self.pad_to)
        models = np.array([id(self.teachers.models[domain]) for domain, _ in refs])
        rows = {
            int(m): to_device(torch.from_numpy(np.flatnonzero(models == m)), self.device) for m in np.unique(models)
        }
        numbers = torch.tensor([self.domains.index(domain) for domain, _ in refs])
        return partial(self._run, batch, rows, to_device(numbers, self.device))

    @torch.no_grad()
    def _run(self, batch: Batch, rows: dict[int, Tensor], domains: Tensor) -> Outputs:
        if len(rows) == 1:
            (model,) = rows
            seen = self.captures[model](batch)
        else:
            order = torch.cat(list(rows.values())).argsort()
            parts = [
                self.captures[model](Batch({name: t[own] for name, t in batch.inputs.items()}, batch.mask[own]))
                for model, own in rows.items()
            ]

            def joined(tensors: list[Tensor | None], axis: int) -> Any:
                found = [tensor for tensor in tensors if tensor is not None]
                return torch.cat(found, dim=axis).index_select(axis, order) if found else None

            hidden, queries, keys = (
                joined([getattr(part, name) for part in parts], 1) for name in ("hidden", "queries", "keys")
            )
            seen = Outputs(hidden, queries, keys, joined([part.logits for part in parts], 0))
        return replace(seen, logits=self.columns.take(seen.logits, domains))


def batches_of(lengths: np.ndarray, tokens: int) -> Iterator[np.ndarray]:
    """Yield the numbers of all rows, the longest first, in batches of at most so many padded tokens, or of one row."""
    rows, start = np.argsort(-lengths, kind="stable"), 0
    while start < len(rows):
        size = max(1, tokens // max(1, int(lengths[rows[start]])))
        yield rows[start : start + size]
        start += size
