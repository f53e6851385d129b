"""Distillation: teacher and data in, student folder out. Runs the stages before it where they are missing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hrkd_cli import __version__
from hrkd_cli.config import DistillSettings, Init
from hrkd_cli.data.dataset import Dataset
from hrkd_cli.data.opening import load_for_training
from hrkd_cli.errors import ModelError, UsageError
from hrkd_cli.events import Note, OnEvent, StageDone, ignore
from hrkd_cli.layout import DATASET_OUT, STUDENT_OUT, TEACHER_OUT
from hrkd_cli.model.backend import pick_device
from hrkd_cli.model.encoding import Encoder, make_encoder
from hrkd_cli.model.folder import is_stage_folder, model_fingerprint
from hrkd_cli.model.loading import is_classifier, read_config, resolve
from hrkd_cli.model.student import build_student, student_spec_is_path
from hrkd_cli.outputs import check_apart, check_output, whole_folder
from hrkd_cli.runtime.heads import DomainHeads
from hrkd_cli.train.result import TrainResult, run_key
from hrkd_cli.train.run import Run
from hrkd_cli.train.scoring import encode_split, score
from hrkd_cli.train.stage import Finished, check_length, check_trainable, class_weights, make_sampler, seed_everything
from hrkd_cli.train.task import DistillTask
from hrkd_cli.train.teachers import Teachers, check_strength, open_teachers, warn_of_other_data
from hrkd_cli.train.upstream import ensure_taught, student_tokenizer


def distill(
    teacher: str | Path = TEACHER_OUT,
    *,
    data: str | Path = DATASET_OUT,
    out: str | Path = STUDENT_OUT,
    force: bool = False,
    on_event: OnEvent = ignore,
    sources: Mapping[str, str] | None = None,
    **options: Any,
) -> TrainResult:
    """Distil a teacher into a student.

    Args:
        teacher: folder or hub id of a teacher of ours, of a classifier whose labels are the data's, or of a plain
            encoder, which is taught first (into ``hrkd-out/teacher``, reused when nothing changed).
        data: prepared dataset folder, or a raw source (prepared into ``hrkd-out/dataset`` first).
        out: folder to write.
        force: replace an existing output, and earlier stages' outputs that no longer fit.
        on_event: told what happens.
        sources: where each option came from, for the record.
        **options: fields of ``hrkd_cli.config.DistillSettings``.

    Raises:
        HrkdError: a user's error, in one line (see ``hrkd_cli.errors``).
    """
    settings = DistillSettings(**options)
    if student_spec_is_path(settings.student) and settings.init is not None:
        raise UsageError(f"--init: --student {settings.student} has weights of its own; leave --init out")
    out, name = Path(out), str(teacher)
    check_output(out, kind="student", is_ours=is_student, force=force)
    if Path(teacher) == TEACHER_OUT and not TEACHER_OUT.exists():
        raise ModelError(f"--teacher: there is no {TEACHER_OUT} yet; run hrkd teach first, or name an encoder to teach")
    path = resolve(teacher, "teacher")
    others = {"teacher": path, "data": Path(data), "dataset": DATASET_OUT, "taught teacher": TEACHER_OUT}
    if student_spec_is_path(settings.student):
        others["start of the student"] = resolve(str(settings.student), "student")
    check_apart(out, others)
    dataset = load_for_training(data, force=force, on_event=on_event)
    if not is_classifier(read_config(path, "teacher")):
        student_tokenizer(path, dataset, settings)  # fail now, not after the teacher has been taught
        path = ensure_taught(path, dataset, settings, name=name, force=force, on_event=on_event, sources=sources or {})
        name = str(path)
    resolved = settings.resolved()
    return distill_on(path, dataset, resolved, out=out, name=name, on_event=on_event, sources=sources or {})


def is_student(folder: Path) -> bool:
    """Tell a folder that ``hrkd distill`` wrote."""
    return is_stage_folder(folder, "distill")


def distill_on(
    path: Path,
    dataset: Dataset,
    settings: DistillSettings,
    *,
    out: Path,
    name: str,
    on_event: OnEvent = ignore,
    sources: Mapping[str, str] | None = None,
) -> TrainResult:
    """Distil the classifier in ``path`` on a dataset in memory; ``settings`` are resolved. See distill."""
    check_trainable(dataset)
    tokenizer = student_tokenizer(path, dataset, settings)
    seed_everything(settings.seed)
    device = pick_device(settings.device)
    teachers, teacher_encoder = _strong_teachers(path, dataset, settings, device, name=name, on_event=on_event)
    heads = DomainHeads.build(dataset.labels)
    student = build_student(
        settings.student,
        teachers.root,
        heads,
        teacher_heads=teachers.heads,
        init=settings.init or Init.TEACHER,
        seed=settings.seed,
        note=lambda text: on_event(Note(text)),
    )
    encoder = make_encoder(student, tokenizer or teachers.tokenizer, settings.max_length)
    check_length(settings.max_length, student, encoder.tokenizer, "the student")
    student.to(device)
    train = encode_split(dataset, "train", encoder)
    dev = encode_split(dataset, "dev", encoder)
    side = teacher_side = (encoder, train.encoded)
    if tokenizer is not None or encoder.takes_types != teacher_encoder.takes_types:
        teacher_side = (teacher_encoder, encode_split(dataset, "train", teacher_encoder).encoded)
    weights = class_weights(train, heads, settings, device)
    task = DistillTask(
        teachers, student, heads, settings, rows=(teacher_side, side), class_weights=weights, device=device
    )
    fingerprint = model_fingerprint(path)
    finished = Finished(
        stage="distill",
        model=student,
        tokenizer=encoder.tokenizer,
        heads=heads,
        dataset=dataset,
        settings=settings,
        what=f"A multi-domain text classifier, distilled from `{name}` with hrkd-cli {__version__}.",
        start=name,
        models={"teacher": {"name": name, "fingerprint": fingerprint}, "student": {"name": settings.student}},
        key=run_key(stage="distill", model=fingerprint, data=dataset.fingerprint, options=settings.to_json()),
        sources=sources or {},
    )
    with whole_folder(out) as work:
        run = Run(
            stage="distill",
            model=student,
            extra=[] if task.projections is None else [task.projections],
            task=task,
            sampler=make_sampler(dataset, settings),
            score_dev=lambda: score(student, dev, heads, encoder, device),
            dev_rows=dev.rows,
            settings=settings,
            work=work,
            out=out,
            on_event=on_event,
        )
        result = finished.write(work, out, run.run(heads.domains))
    on_event(StageDone("distill", str(out), result.steps, result.seconds))
    return result


def _strong_teachers(
    path: Path, dataset: Dataset, settings: DistillSettings, device: torch.device, *, name: str, on_event: OnEvent
) -> tuple[Teachers, Encoder]:
    """Open the teachers with their encoder, and make sure that they have something to teach.

    Raises:
        TrainingError: one is not clearly above the majority class of its domain.
    """
    teachers = open_teachers(path, dataset, checkpoints=settings.teacher_checkpoints, device=device, name=name)
    warn_of_other_data(path, dataset, f"teacher {name}", on_event)
    check_length(settings.max_length, teachers.root, teachers.tokenizer, f"teacher {name}")
    encoder = make_encoder(teachers.root, teachers.tokenizer, settings.max_length)
    dev = encode_split(dataset, "dev", encoder)
    on_event(Note("scoring the teacher on the dev split"))
    strength = score(teachers.models, dev, teachers.heads, encoder, device)
    check_strength(strength, dev, allow_weak=settings.allow_weak_teacher, name=name, on_event=on_event)
    return teachers, encoder
