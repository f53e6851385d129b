"""What a distillation needs before it starts: options that fit the data, a teacher, a student that fits it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from hrkd_cli.choices import Graph, Init
from hrkd_cli.data.dataset import Dataset
from hrkd_cli.errors import ModelError, OutputError, UsageError
from hrkd_cli.events import Note, OnEvent
from hrkd_cli.json_files import read_json_or_empty
from hrkd_cli.layout import DATASET_OUT, TEACHER_OUT, ModelFiles
from hrkd_cli.models.encoding import same_tokenizer
from hrkd_cli.models.loading import load_config, load_tokenizer, resolve
from hrkd_cli.models.model_folder import model_fingerprint
from hrkd_cli.models.student_init import (
    check_dimensions,
    default_shape,
    parse_shape,
    student_config,
    student_spec_is_path,
)
from hrkd_cli.outputs import check_no_overlap
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.settings import DistillSettings, TeachSettings
from hrkd_cli.teaching.teach import teach, teach_key
from hrkd_cli.training.stage_folder import data_folder, difference_of

PROBE_ROWS = 64  # texts per domain on which two tokenizers are compared


def check_folders(teacher: str | Path, data: str | Path | Dataset, out: Path, settings: DistillSettings) -> Path:
    """Refuse folders that do not go together, before anything slow; return the teacher's folder.

    Raises:
        UsageError: ``out`` would replace what the run reads, or ``--init`` comes with a student that has weights.
        ModelError: there is no teacher.
    """
    own_weights = student_spec_is_path(settings.student)
    if own_weights and settings.init is not None:
        raise UsageError(f"--init: --student {settings.student} has weights of its own; leave --init out")
    if Path(teacher) == TEACHER_OUT and not TEACHER_OUT.exists():
        raise ModelError(f"--teacher: there is no {TEACHER_OUT} yet; run hrkd teach first, or name an encoder to teach")
    path = resolve(teacher, "teacher")
    others = {"teacher": path, "dataset": DATASET_OUT, "taught teacher": TEACHER_OUT, **data_folder(data)}
    if own_weights:
        others["start of the student"] = resolve(str(settings.student), "student")
    if settings.unlabelled is not None:
        others["unlabeled texts"] = Path(settings.unlabelled)
    check_no_overlap(out, others)
    return path


def chosen_domains(dataset: Dataset, settings: DistillSettings) -> Dataset:
    """Return the dataset of the domains that the student is for.

    Raises:
        UsageError: the data has no such domain, or a single one, which a learned graph cannot weight.
    """
    if settings.domains is not None:
        names = [name.strip() for name in settings.domains.split(",")]
        for name in names:
            if name not in dataset.domains:
                have = ", ".join(dataset.domains)
                raise UsageError(f"--domains: there is no domain {name!r} in the data; it has {have}")
        dataset = dataset.select_domains(*names)
    if settings.graph is Graph.LEARNED and len(dataset.domains) == 1:
        raise UsageError("--graph learned: there is one domain, and nothing to weigh; use --graph uniform")
    return dataset


def student_tokenizer(path: Path, dataset: Dataset, settings: DistillSettings) -> Any | None:
    """Check, from configurations and tokenizers alone, that the student can learn from the model in ``path``.

    ``path`` is the folder of the teacher, or of the encoder that it will be taught from. Returned is the student's own
    tokenizer where it differs from the teacher's (logits only), else None.

    Raises:
        UsageError: a shape that does not fit.
        ModelError: tokenizers, heads or depths that do not match; the message names what does work.
    """
    teacher = load_config(path, "teacher")
    check_dimensions(teacher)
    shape = default_shape(teacher) if settings.student is None else parse_shape(settings.student)
    if shape is not None:
        student_config(teacher, shape, DomainHeads.build(dataset.labels), init=settings.init or Init.TEACHER)
        return None
    name = str(settings.student)
    folder = resolve(name, "student")
    student, tokenizer = load_config(folder, "student"), load_tokenizer(folder, "student")
    check_dimensions(student)
    depth, limit = student.num_hidden_layers, teacher.num_hidden_layers
    if settings.compares_layers and depth > limit:
        raise ModelError(f"student {name}: it has {depth} layers and its teacher {limit}; use --method logits")
    probe = [text for domain in dataset.domains for text in dataset.split(domain, "dev").texts[:PROBE_ROWS]]
    if same_tokenizer(load_tokenizer(path, "teacher"), tokenizer, probe):
        return None
    if settings.compares_layers:
        raise ModelError(
            f"student {name}: its tokenizer is not the teacher's, so their hidden states cannot be compared token by "
            f"token; use --method logits, or cut the student from the teacher (--student {default_shape(teacher)})"
        )
    return tokenizer


def ensure_taught(
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
    """Return a teacher taught from a plain encoder: that in ``hrkd-out/teacher`` when nothing changed, else a new one.

    Raises:
        OutputError: that folder holds another teacher, and ``force`` is false.
    """
    own = {"epochs": settings.teacher_epochs, "learning_rate": settings.teacher_learning_rate}
    options = {f.name: getattr(settings, f.name) for f in fields(TeachSettings)} | own
    teaching = TeachSettings(**options)
    record = read_json_or_empty(TEACHER_OUT / ModelFiles.run)
    if record.get("stage") == "teach":
        if record.get("key") == teach_key(model_fingerprint(path), dataset, teaching):
            on_event(Note(f"teacher: {TEACHER_OUT} is up to date, not taught again"))
            return TEACHER_OUT
        if not force:
            before = {name: entry.get("value") for name, entry in record.get("options", {}).items()}
            difference = (
                difference_of(before, teaching.options_affecting_result()) or "from another model or on other data"
            )
            raise OutputError(
                f"{TEACHER_OUT} was taught {difference}; use it as it is with --teacher {TEACHER_OUT}, or replace it "
                "with --force"
            )
    on_event(Note(f"teacher: {name} is a plain encoder; teaching it first, into {TEACHER_OUT}"))
    origins = {**sources, **{name: sources.get(f"teacher_{name}", "default") for name in own}}
    teach(name, data=dataset, force=force, resume=resume, on_event=on_event, sources=origins, **options)
    return TEACHER_OUT
