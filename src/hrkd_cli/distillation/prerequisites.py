"""Checks before a distillation starts, and the teach stage if there is no teacher yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from hrkd_cli.choices import RECIPES, Graph, Init, Method, Split
from hrkd_cli.data.dataset import Dataset
from hrkd_cli.distillation.loss_config import LossConfig
from hrkd_cli.errors import DataError, ModelError, OutputError, UsageError
from hrkd_cli.events import Note, OnEvent, Progress
from hrkd_cli.json_files import read_json_or_empty
from hrkd_cli.layout import TEACHER_OUT, ModelFiles, partial_folder
from hrkd_cli.method import Requirement
from hrkd_cli.models.feature_capture import FeatureCapture, check_forward
from hrkd_cli.models.fingerprint import model_fingerprint
from hrkd_cli.models.loading import load_classifier, load_config, load_tokenizer
from hrkd_cli.models.mean_pooling import encoder_layers
from hrkd_cli.models.model_source import resolve_model
from hrkd_cli.models.model_tokenizer import ModelTokenizer, same_tokenizer
from hrkd_cli.models.student_init import (
    build_student,
    check_dimensions,
    student_config,
    student_shape,
)
from hrkd_cli.options import option_name, options_of
from hrkd_cli.outputs import latest_checkpoint_step
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.predict.name_validation import validate_names
from hrkd_cli.settings import DistillSettings, TrainingSettings
from hrkd_cli.teaching.teach import teach, teach_key
from hrkd_cli.training.plan import FEW_ROWS
from hrkd_cli.training.stage_folder import describe_changed_options

PROBE_TEXTS = 64  # per domain, to compare two tokenizers
PROBE_LENGTH = 8  # tokens


def select_domains(dataset: Dataset, settings: DistillSettings) -> Dataset:
    """Return the dataset restricted to ``--domains``.

    Raises:
        UsageError: the data lacks one of the domains, or there is a learned graph and a single domain.
    """
    if settings.domains is not None:
        names = [name.strip() for name in settings.domains.split(",")]
        for name in names:
            if name not in dataset.domains:
                domains = ", ".join(dataset.domains)
                raise UsageError(f"--domains: there is no domain {name!r} in the data; it has {domains}")
        dataset = dataset.select_domains(*names)
    if settings.graph is Graph.LEARNED and len(dataset.domains) == 1:
        raise UsageError("--graph learned: it needs at least two domains; use --graph uniform")
    return dataset


def add_new_domains(dataset: Dataset, settings: DistillSettings) -> Dataset:
    """Return the dataset with the ``--new-domains``, which have no rows, and the labels of all other domains.

    Raises:
        UsageError: a name is not allowed, or the data has rows of a domain.
        DataError: the domains of the data have different labels.
    """
    if settings.new_domains is None:
        return dataset
    names = [name.strip() for name in settings.new_domains.split(",")]
    option = f"--new-domains {settings.new_domains}"
    for name in names:
        if name in dataset.domains:
            raise UsageError(f"{option}: the data has labeled rows of {name!r}; leave it out")
    validate_names([*dataset.domains, *names], (), option, UsageError)
    first, *others = dataset.domains
    for other in others:
        if dataset.labels[other] != dataset.labels[first]:
            raise DataError(
                f"{option}: a domain without labels needs domains that all have the same labels, but {other!r} and "
                f"{first!r} differ; leave out --new-domains, or choose domains with --domains"
            )
    return dataset.with_labels(dict.fromkeys(names, dataset.labels[first]))


def choose_size(dataset: Dataset, settings: DistillSettings, on_event: OnEvent) -> DistillSettings:
    """Return the settings with a larger student for few train rows or for pairs, unless a student is given.

    A student that keeps more of its teacher has less to learn (docs/results.md, docs/ablations.md).
    """
    if settings.student is not None or settings.extend is not None:
        return settings
    rows = dataset.count(Split.TRAIN)
    if rows <= FEW_ROWS:
        size, reason = "large", f"few rows ({rows:,}): the student keeps two thirds of the teacher's layers"
    elif dataset.has_pairs:
        size, reason = "medium", "pairs of texts need a wide student"
    else:
        return settings
    on_event(Note(f"{reason} (--student {size})"))
    return replace(settings, student=size)


def warn_of_unused_options(settings: DistillSettings, names: Sequence[str], reason: str, on_event: OnEvent) -> None:
    """Warn of those of the options that are not at their default or the recipe's."""
    options, recipe = options_of(DistillSettings), RECIPES.get(settings.recipe, {})
    for name in names:
        value = getattr(settings, name)
        if value not in (options[name].default, recipe.get(name)):
            on_event(Note(f"{option_name(name, value)} has no effect: {reason}", warning=True))


def check_student(path: Path, dataset: Dataset, settings: DistillSettings) -> Any | None:
    """Check from configs and tokenizers alone that the student can learn from the teacher.

    ``path`` is the folder of the teacher, or of the encoder that will be fine-tuned.

    Returns:
        The student's tokenizer if it differs from the teacher's, which only ``--method logits`` allows; else None.

    Raises:
        UsageError: the student's shape is not possible.
        ModelError: depths or tokenizers do not match; the message says what to use instead.
    """
    if settings.extend is not None:  # it has the shape and the tokenizer of the student in ``path``
        return None
    teacher = load_config(path, "teacher")
    check_dimensions(teacher)
    shape = student_shape(settings.student, teacher)
    if shape is not None:
        student_config(teacher, shape, DomainHeads.build(dataset.labels), init=settings.init or Init.TEACHER)
        return None
    name = str(settings.student)
    folder = resolve_model(name, "student")
    student, tokenizer = load_config(folder, "student"), load_tokenizer(folder, "student")
    check_dimensions(student)
    layers, teacher_layers = encoder_layers(student), encoder_layers(teacher)
    if settings.compares_layers and layers > teacher_layers:
        raise ModelError(f"student {name}: it has {layers} layers, the teacher {teacher_layers}; use --method logits")
    texts = [text for domain in dataset.domains for text in dataset.split(domain, "dev").texts[:PROBE_TEXTS]]
    if same_tokenizer(load_tokenizer(path, "teacher"), tokenizer, texts):
        return None
    if settings.compares_layers:
        raise ModelError(
            f"student {name}: its tokenizer is not the teacher's, so their hidden states cannot be compared token by "
            f"token; use --method logits, or prune the student from the teacher (--student small)"
        )
    return tokenizer


def check_untrained(
    path: Path, dataset: Dataset, settings: DistillSettings, *, tokenizer: Any | None, on_event: OnEvent
) -> None:
    """Build the student from an encoder that is not fine-tuned yet, and run both.

    Raises:
        HrkdError: the distillation would fail after the teacher was trained.
    """
    on_event(Progress("checking encoder and student"))
    heads = DomainHeads.build(dataset.labels)
    teacher, pretrained = load_classifier(path, heads, role="teacher"), load_tokenizer(path, "teacher")
    init = settings.init or Init.TEACHER
    student, _ = build_student(settings.student, teacher, heads, teacher_heads=heads, init=init, seed=settings.seed)
    check_models(teacher, student, pretrained, tokenizer or pretrained, settings)


def check_models(
    teacher: Any, student: Any, teacher_tokenizer: Any, student_tokenizer: Any, settings: DistillSettings
) -> None:
    """Run teacher and student on two short texts.

    Raises:
        ModelError: one of them cannot run, or does not have what the losses compare.
    """
    loss_config = LossConfig.from_settings(settings, teacher.config, student.config, PROBE_LENGTH)
    attention = loss_config.requires(Requirement.QUERIES_KEYS)
    if settings.method is not Method.LABELS:  # which never runs the teacher
        capture = FeatureCapture(teacher, loss_config.matched_layers, attention=attention)
        check_forward(capture, ModelTokenizer(teacher, teacher_tokenizer, PROBE_LENGTH), "the teacher")
    capture = FeatureCapture(student, range(1, len(loss_config.matched_layers) + 1), attention=attention)
    check_forward(capture, ModelTokenizer(student, student_tokenizer, PROBE_LENGTH), "the student")


def teach_if_needed(
    path: Path,
    dataset: Dataset,
    settings: DistillSettings,
    *,
    name: str,
    force: bool,
    resume: bool,
    sources: Mapping[str, str],
    on_event: OnEvent,
) -> Path:
    """Fine-tune an encoder into ``hrkd-out/teacher``, unless the same teacher is there already; return that folder.

    Raises:
        OutputError: the folder has a different teacher, ``force`` is false, and there is no run to resume.
    """
    teacher_options = {"epochs": settings.teacher_epochs, "learning_rate": settings.teacher_learning_rate}
    options = {field.name: getattr(settings, field.name) for field in fields(TrainingSettings)} | teacher_options
    teach_settings = TrainingSettings(**options)
    run_json = read_json_or_empty(TEACHER_OUT / ModelFiles.run)
    if run_json.get("stage") == "teach":
        if run_json.get("key") == teach_key(model_fingerprint(path), dataset, teach_settings):
            on_event(Note(f"teacher: {TEACHER_OUT} is up to date; it is not trained again"))
            return TEACHER_OUT
        can_resume = resume and latest_checkpoint_step(partial_folder(TEACHER_OUT.resolve())) is not None
        if not (force or can_resume):
            before = {name: entry.get("value") for name, entry in run_json.get("options", {}).items()}
            difference = describe_changed_options(before, teach_settings.options_affecting_result())
            difference = difference or "from another model or on other data"
            raise OutputError(
                f"{TEACHER_OUT} was trained {difference}; use it as is with --teacher {TEACHER_OUT}, or replace it "
                "with --force"
            )
    on_event(Note(f"teacher: {name} is a plain encoder; fine-tuning it first, into {TEACHER_OUT}"))
    sources = {**sources, **{name: sources.get(f"teacher_{name}", "default") for name in teacher_options}}
    options["log_to"] = None  # on_event logs this run too
    teach(name, data=dataset, force=force, resume=resume, on_event=on_event, sources=sources, **options)
    return TEACHER_OUT
