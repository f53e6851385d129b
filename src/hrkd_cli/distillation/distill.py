"""Distillation: teacher and data in, student folder out. Runs the stages before it where they are missing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hrkd_cli import __version__
from hrkd_cli.data.dataset import Dataset
from hrkd_cli.data.opening import load_for_training
from hrkd_cli.data.unlabelled import MoreTexts
from hrkd_cli.distillation.checks import check_graph, check_places, chosen_domains
from hrkd_cli.distillation.distill_work import Work
from hrkd_cli.distillation.general import ensure_general
from hrkd_cli.distillation.upstream import ensure_taught, student_tokenizer
from hrkd_cli.events import Note, OnEvent, StageDone, ignore
from hrkd_cli.layout import DATASET_OUT, STUDENT_OUT, TEACHER_OUT
from hrkd_cli.models.folder import is_stage_folder, model_fingerprint
from hrkd_cli.models.loading import is_classifier, read_config
from hrkd_cli.models.precision import Arithmetic
from hrkd_cli.settings import DistillSettings
from hrkd_cli.training.process_group import ProcessGroup
from hrkd_cli.training.result import TrainResult, run_key
from hrkd_cli.training.stage import (
    Finished,
    check_stage_output,
    check_trainable,
    finished_before,
    seed_everything,
    stage_place,
    start,
)


def distill(
    teacher: str | Path = TEACHER_OUT,
    *,
    data: str | Path = DATASET_OUT,
    out: str | Path = STUDENT_OUT,
    force: bool = False,
    resume: bool = False,
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
        resume: go on with a run that was cut off, also while it was teaching; start anew where there is none, and
            return the result of one that is finished.
        on_event: told what happens.
        sources: where each option came from, for the record.
        **options: fields of ``hrkd_cli.settings.DistillSettings``.

    Raises:
        HrkdError: a user's error, in one line (see ``hrkd_cli.errors``).
    """
    settings = DistillSettings.of(**options)
    out, name = Path(out), str(teacher)
    check_stage_output(out, kind="student", is_ours=is_student, force=force, resume=resume)
    path = check_places(teacher, data, out, settings)
    engine = start(settings)
    processes = engine[1]
    on_event = on_event if processes.is_main else ignore
    dataset = processes.main_first(lambda: load_for_training(data, force=force, on_event=on_event))
    chosen = chosen_domains(dataset, settings.domains)  # refused before anything is taught; the teacher is taught all
    check_graph(settings, chosen)
    texts = MoreTexts.read(settings, chosen, on_event)
    if not is_classifier(read_config(path, "teacher")):
        student_tokenizer(path, dataset, settings)  # fail now, not after the teacher has been taught
        path = ensure_taught(
            path,
            dataset,
            settings,
            name=name,
            force=force,
            resume=resume,
            on_event=on_event,
            sources=sources or {},
            engine=engine,
        )
        name = str(path)
    return distill_on(
        path,
        chosen,
        settings.resolved(),
        out=out,
        name=name,
        force=force,
        resume=resume,
        on_event=on_event,
        sources=sources or {},
        engine=engine,
        texts=texts,
    )


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
    force: bool = False,
    resume: bool = False,
    on_event: OnEvent = ignore,
    sources: Mapping[str, str] | None = None,
    engine: tuple[Arithmetic, ProcessGroup] | None = None,
    texts: MoreTexts | None = None,
) -> TrainResult:
    """Distil the classifier in ``path`` on a dataset in memory; ``settings`` are resolved. See distill.

    ``texts`` are those that the settings name, where they have been read already.
    """
    check_trainable(dataset)
    check_graph(settings, dataset)
    arithmetic, processes = engine or start(settings)
    texts = texts or MoreTexts.read(settings, dataset, on_event)
    fingerprint = model_fingerprint(path)
    options = settings.decisive()
    key = run_key(
        stage="distill", model=fingerprint, data=dataset.fingerprint, options=options, texts=texts.fingerprints()
    )
    if resume and (done := finished_before(out, key=key, kind="student", is_ours=is_student)):
        on_event(Note(f"{out} is finished already"))
        return done
    seed_everything(settings.seed)
    work = Work.open(
        path, dataset, settings, texts=texts, name=name, arithmetic=arithmetic, processes=processes, on_event=on_event
    )
    general = None
    if texts.general is not None:
        before = work.general(texts.general, fingerprint)
        general = ensure_general(
            before, out=out, force=force, resume=resume, engine=(arithmetic, processes), on_event=on_event
        )
    finished = Finished(
        stage="distill",
        model=work.student,
        tokenizer=work.encoder.tokenizer,
        heads=work.heads,
        dataset=dataset,
        settings=settings,
        what=f"A multi-domain text classifier, distilled from `{name}` with hrkd-cli {__version__}.",
        start=name,
        models={"teacher": {"name": name, "fingerprint": fingerprint}, "student": {"name": settings.student}},
        key=key,
        sources=sources or {},
        texts=texts.to_json(general={} if general is None else general.summary()),
    )
    with stage_place(out, key=key, options=options, resume=resume, arithmetic=arithmetic, processes=processes) as place:
        run = work.run(place, on_event, general)
        result = finished.write(place, run.run(work.heads.domains))
    on_event(StageDone("distill", str(out), result.steps, result.seconds))
    return result
