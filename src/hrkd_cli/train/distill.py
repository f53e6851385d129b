"""Distillation: teacher and data in, student folder out. Runs the stages before it where they are missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from hrkd_cli import __version__
from hrkd_cli.config import DistillSettings, Method, TeachSettings
from hrkd_cli.data.dataset import Dataset
from hrkd_cli.data.opening import load_for_training
from hrkd_cli.errors import ModelError, UsageError
from hrkd_cli.events import Note, OnEvent, StageDone, ignore
from hrkd_cli.layout import DATASET_OUT, MODEL, STUDENT_OUT, TEACHER_OUT
from hrkd_cli.model.backend import pick_device
from hrkd_cli.model.encoding import make_encoder, same_tokenizer
from hrkd_cli.model.folder import is_model_folder, model_fingerprint, read_json
from hrkd_cli.model.loading import is_classifier, read_config, resolve
from hrkd_cli.model.student import build_student, check_heads_match, default_shape, parse_shape, student_spec_is_path
from hrkd_cli.outputs import check_output, whole_folder
from hrkd_cli.runtime.heads import DomainHeads
from hrkd_cli.train.result import TrainResult, run_key
from hrkd_cli.train.run import Run
from hrkd_cli.train.scoring import encode_split, score
from hrkd_cli.train.stage import Finished, check_length, check_trainable, class_weights, make_sampler, seed_everything
from hrkd_cli.train.task import DistillTask
from hrkd_cli.train.teach import teach_key, teach_on
from hrkd_cli.train.teachers import Teachers, check_strength, open_teachers

PROBE_ROWS = 64  # texts on which two tokenizers are compared


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
    check_output(out, kind="model", is_ours=is_model_folder, force=force)
    if Path(teacher) == TEACHER_OUT and not TEACHER_OUT.exists():
        raise ModelError(f"--teacher: there is no {TEACHER_OUT} yet; run hrkd teach first, or name an encoder to teach")
    path = resolve(teacher, "teacher")
    if student_spec_is_path(settings.student):
        resolve(str(settings.student), "student")  # fail now, not after the teacher has been taught
    dataset = load_for_training(data, force=force, on_event=on_event)
    if not is_classifier(read_config(path, "teacher")):
        path = ensure_taught(path, dataset, settings, name=name, force=force, on_event=on_event, sources=sources or {})
    resolved = settings.resolved()
    return distill_on(path, dataset, resolved, out=out, name=name, on_event=on_event, sources=sources or {})


def ensure_taught(
    path: Path,
    dataset: Dataset,
    settings: DistillSettings,
    *,
    name: str,
    force: bool,
    on_event: OnEvent,
    sources: Mapping[str, str],
) -> Path:
    """Return a teacher taught from a plain encoder: that in ``hrkd-out/teacher`` when nothing changed, else a new one.

    Raises:
        OutputError: that folder holds another teacher, and ``force`` is false.
    """
    shared = {f.name: getattr(settings, f.name) for f in fields(TeachSettings)} | {"epochs": settings.teacher_epochs}
    teaching = TeachSettings(**shared)
    record = read_json(TEACHER_OUT / MODEL.run)
    if record is not None and record.get("key") == teach_key(path, dataset, teaching):
        on_event(Note(f"teacher: {TEACHER_OUT} is up to date, not taught again"))
        return TEACHER_OUT
    on_event(Note(f"teacher: {name} is a plain encoder; teaching it first, into {TEACHER_OUT}"))
    check_output(TEACHER_OUT, kind="model", is_ours=is_model_folder, force=force)
    origins = {**sources, "epochs": sources.get("teacher_epochs", "default")}
    teach_on(path, dataset, teaching, out=TEACHER_OUT, name=name, on_event=on_event, sources=origins)
    return TEACHER_OUT


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
    seed_everything(settings.seed)
    device = pick_device(settings.device)
    teachers = open_teachers(path, dataset, checkpoints=settings.teacher_checkpoints, device=device, name=name)
    check_length(settings.max_length, teachers.root, teachers.tokenizer, f"teacher {name}")
    teacher_encoder = make_encoder(teachers.root, teachers.tokenizer, settings.max_length)
    dev = encode_split(dataset, "dev", teacher_encoder)
    strength = score(teachers.models, dev, teachers.heads, teacher_encoder, device)
    check_strength(strength, dev, allow_weak=settings.allow_weak_teacher, name=name, on_event=on_event)

    heads = DomainHeads.build(dataset.labels)
    student, tokenizer = _make_student(teachers, dataset, heads, settings, on_event)
    encoder = make_encoder(student, tokenizer or teachers.tokenizer, settings.max_length)
    check_length(settings.max_length, student, encoder.tokenizer, "the student")
    student.to(device)
    train = encode_split(dataset, "train", encoder)
    side = teacher_side = (encoder, train.encoded)
    if tokenizer is not None or encoder.takes_types != teacher_encoder.takes_types:
        teacher_side = (teacher_encoder, encode_split(dataset, "train", teacher_encoder).encoded)
        dev = encode_split(dataset, "dev", encoder)
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
            settings=settings,
            work=work,
            on_event=on_event,
        )
        result = finished.write(work, out, run.run(heads.domains))
    on_event(StageDone("distill", str(out), result.steps, result.seconds))
    return result


def _make_student(
    teachers: Teachers, dataset: Dataset, heads: DomainHeads, settings: DistillSettings, on_event: OnEvent
) -> tuple[Any, Any | None]:
    """Make the student and check that it can be compared with its teacher.

    Returns:
        The classifier, and its own tokenizer where that differs from the teacher's (logits only), else None.

    Raises:
        ModelError: tokenizers or heads do not match.
    """
    init = settings.init
    if init is None:
        raise UsageError("settings are not resolved")
    student, tokenizer = build_student(
        settings.student, teachers.root, heads, init=init, seed=settings.seed, note=lambda text: on_event(Note(text))
    )
    compares = settings.method is not Method.LOGITS and settings.hidden_weight > 0
    if tokenizer is not None:
        probe = [text for domain in dataset.domains for text in dataset.split(domain, "dev").texts[:PROBE_ROWS]]
        if same_tokenizer(teachers.tokenizer, tokenizer, probe):
            tokenizer = None
        elif compares:
            shape = default_shape(teachers.root.config)
            raise ModelError(
                f"student {settings.student}: its tokenizer is not the teacher's, so their hidden states cannot be "
                f"compared token by token; use --method logits, or cut the student from the teacher (--student {shape})"
            )
    depth, teacher_depth = int(student.config.num_hidden_layers), int(teachers.root.config.num_hidden_layers)
    if compares and depth > teacher_depth:
        raise ModelError(f"the student has {depth} layers and its teacher {teacher_depth}; use --method logits")
    if compares and settings.attention_weight > 0 and parse_shape(settings.student or "1x1") is None:
        check_heads_match(teachers.root, student)
    return student, tokenizer
