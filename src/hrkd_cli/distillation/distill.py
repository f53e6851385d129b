"""The distill stage: from a teacher and data to a student folder. Runs the stages before it if they are missing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hrkd_cli.cards import code_span
from hrkd_cli.choices import Graph
from hrkd_cli.data.dataset import Dataset
from hrkd_cli.data.dataset_loading import load_for_training
from hrkd_cli.distillation.extension import check_old_domains, extend_dataset
from hrkd_cli.distillation.few_rows import more_texts
from hrkd_cli.distillation.prerequisites import (
    add_new_domains,
    check_student,
    check_untrained,
    choose_size,
    select_domains,
    teach_if_needed,
    warn_of_unused_options,
)
from hrkd_cli.distillation.setup import DistillSetup
from hrkd_cli.evaluation.linear_baseline import baseline_dev_scores
from hrkd_cli.events import Note, OnEvent, StageDone, ignore
from hrkd_cli.json_files import read_json
from hrkd_cli.layout import DATASET_OUT, EXTENSION_DATASET_OUT, TEACHER_OUT, ModelFiles, student_folder
from hrkd_cli.models.fingerprint import model_fingerprint
from hrkd_cli.models.loading import is_classifier
from hrkd_cli.models.model_source import check_folders
from hrkd_cli.outputs import check_stage_output
from hrkd_cli.settings import DistillSettings
from hrkd_cli.training.checkpoint import Checkpointer
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.plan import check_trainable
from hrkd_cli.training.stage_folder import (
    TrainResult,
    data_folder,
    load_finished_result,
    run_folder,
    run_key,
    write_model_folder,
)
from hrkd_cli.training.trainer import Trainer
from hrkd_cli.version import __version__


def distill(
    teacher: str | Path = TEACHER_OUT,
    *,
    data: str | Path | Dataset = DATASET_OUT,
    out: str | Path | None = None,
    force: bool = False,
    resume: bool = False,
    on_event: OnEvent = ignore,
    sources: Mapping[str, str] | None = None,
    **options: Any,
) -> TrainResult:
    """Distill a teacher into a student.

    Args:
        teacher: folder or hub id of a teacher, of a classifier with the data's label names, or of a plain encoder,
            which is fine-tuned first (into ``hrkd-out/teacher``, which is reused if nothing changed).
        data: prepared dataset folder, a raw source (prepared into ``hrkd-out/dataset`` first, or with ``extend`` into
            ``hrkd-out/dataset-extension``), or a dataset in memory.
        out: folder to write; by default ``hrkd-out/student``, or ``hrkd-out/student-extended`` with ``extend``.
        force: replace an existing output, and earlier stages' outputs that no longer fit.
        resume: continue an interrupted run, including its teach stage; start from the beginning if there is none;
            return the result if the run is finished.
        on_event: called with every event.
        sources: where each option came from ("flag", "file", ...), for ``hrkd.json``; by default, "argument".
        **options: fields of ``hrkd_cli.settings.DistillSettings``.

    Raises:
        HrkdError: an error that the user can fix, in one line (see ``hrkd_cli.errors``).
    """
    settings = DistillSettings.from_options(**options)
    out = student_folder(out, settings.extend)
    check_stage_output(out, "distill", force=force, resume=resume)
    path = check_folders(teacher, data_folder(data), out, settings)
    context = TrainContext.start(settings, on_event, out if resume else None)
    dataset, student_data, settings = _load_data(data, path, settings.resolve(), force, context)
    unlabeled = more_texts(student_data, dataset, settings, context.on_event)
    tokenizer = check_student(path, student_data, settings)  # before the teacher is trained, which is slow
    name, sources = settings.extend or str(teacher), sources or dict.fromkeys(options, "argument")
    if not is_classifier(read_json(path / ModelFiles.config)):
        check_untrained(path, student_data, settings, tokenizer=tokenizer, on_event=context.on_event)
        path = teach_if_needed(
            path, dataset, settings, name=name, force=force, resume=resume, sources=sources, on_event=context.on_event
        )
        name = str(path)
    start = {"name": name, "fingerprint": model_fingerprint(path)}
    texts = None if unlabeled is None else unlabeled.fingerprint
    key = run_key("distill", settings, model=start["fingerprint"], data=student_data.fingerprint, texts=texts)
    if resume and (finished := load_finished_result(out, "distill", key, context)):
        return finished
    setup = DistillSetup.open(
        path, student_data, settings, tokenizer=tokenizer, unlabeled=unlabeled, name=name, context=context
    )
    with run_folder(out, settings, key=key, resume=resume, context=context) as checkpointer:
        trainer = _train(setup, checkpointer, out)
        more = unlabeled.to_json() if unlabeled is not None else None
        result = _write_student(setup, trainer, path, start=start, sources=sources, unlabeled=more)
    context.on_event(StageDone("distill", str(out), result.steps, result.seconds, result.dev))
    return result


def _load_data(
    source: str | Path | Dataset, path: Path, settings: DistillSettings, force: bool, context: TrainContext
) -> tuple[Dataset, Dataset, DistillSettings]:
    """Return the data that the teacher is trained on, that the student learns from, and the settings for it.

    The teacher is trained on all domains. ``path`` is its folder, or that of the student to extend.
    """
    out = DATASET_OUT if settings.extend is None else EXTENSION_DATASET_OUT
    whole = context.processes.main_first(
        lambda: load_for_training(source, out=out, force=force, on_event=context.on_event)
    )
    data = select_domains(whole, settings)
    check_trainable(data)
    if settings.extend is None:
        data = add_new_domains(data, settings)
        if is_classifier(read_json(path / ModelFiles.config)):
            of_teacher = ("teacher_epochs", "teacher_learning_rate", "probe", "cosine_loss")
            warn_of_unused_options(settings, of_teacher, "the teacher is fine-tuned already", context.on_event)
    else:
        data, settings = extend_dataset(data, path, settings)
    return whole, data, choose_size(data, settings, context.on_event)


def _train(setup: DistillSetup, checkpointer: Checkpointer, out: Path) -> Trainer:
    """Train the student until the plan ends or dev stalls."""
    settings = setup.settings
    objective, fraction = setup.objective(checkpointer, out), settings.unlabelled_share
    trainer = Trainer("distill", objective, settings, setup.plan, checkpointer, setup.dev, unlabeled_fraction=fraction)
    if settings.graph is Graph.LEARNED and trainer.steps < settings.graph_every:
        text = f"--graph learned: it is never updated in {trainer.steps} steps; lower --graph-every"
        setup.context.on_event(Note(text, warning=True))
    trainer.run()
    if settings.extend is not None:
        checkpointer.save(trainer.step)  # for --resume with a larger --max-drop
    return trainer


def _write_student(
    setup: DistillSetup,
    trainer: Trainer,
    path: Path,
    *,
    start: Mapping[str, str],
    sources: Mapping[str, str],
    unlabeled: Mapping[str, Any] | None,
) -> TrainResult:
    """Fit the wide branch after the training, score, and write the student's folder.

    ``path`` is the folder of the teacher or of the student that was extended; ``start`` is its name and fingerprint.

    Raises:
        GateError: with ``--extend``, an old domain lost too much accuracy.
    """
    settings, context = setup.settings, setup.context
    extending = settings.extend is not None
    context.processes.barrier()  # the main process may still be writing the last step's weights
    trainer.best_weights.load()
    wide = setup.wide_branch(domain_posterior=trainer.objective.domain_posterior)
    old_domains = check_old_domains(setup, wide) if extending else {}
    context.precision.release_memory()  # of the wide branch, before an encoder runs again
    labeled = setup.dataset.without_new_domains
    device, on_event = str(setup.settings.device), context.on_event
    baselines = baseline_dev_scores(labeled, path, device, on_event) if context.processes.is_main else {}
    return write_model_folder(
        trainer,
        setup.dataset,
        description=f"A multi-domain text classifier, {'extended' if extending else 'distilled'} from "
        f"{code_span(start['name'])} with hrkd-cli {__version__}.",
        models={"extended": start} if extending else {"teacher": start, "student": {"name": settings.student}},
        sources=sources,
        unlabeled=unlabeled,
        results={"baselines": baselines, "old_domains": old_domains},
        wide=wide,
    )
