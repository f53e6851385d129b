"""General distillation: first, a student learns its teacher's hidden states and attention scores on any texts.

The same objective and trainer, with a single domain and the prediction weight 0; reused by later runs with equal keys.
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
from safetensors.torch import load_file, save_file
from torch import nn

from hrkd_cli.choices import Method
from hrkd_cli.data.unlabelled import ExtraTexts
from hrkd_cli.distillation.objective import DistillObjective
from hrkd_cli.distillation.setup import DistillSetup
from hrkd_cli.events import Note, StageDone
from hrkd_cli.layout import GENERAL, MODEL
from hrkd_cli.machine import versions
from hrkd_cli.models.encoding import Encoder
from hrkd_cli.models.folder import model_fingerprint, write_json
from hrkd_cli.models.loading import resolve
from hrkd_cli.models.student_init import student_spec_is_path
from hrkd_cli.predict.folder import read_json_or_empty
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.settings import DistillSettings, TrainingSettings
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.rows import EncodedSplit
from hrkd_cli.training.stage_folder import check_stage_output, run_folder, run_key
from hrkd_cli.training.trainer import Trainer

STAGE, DOMAIN, WEIGHTS = "general", "texts", "general.safetensors"
SHARED = ("student", "init", "hidden_weight", "attention_weight", "means", "cache_teacher")  # beside the trainer's


def general_distillation(
    task: DistillSetup, texts: ExtraTexts, teacher: str, *, out: Path, force: bool, resume: bool
) -> Path:
    """Train the student of ``task``, or find out that it was done; return the folder. ``teacher`` is a fingerprint."""
    context = task.context
    names = [*(f.name for f in fields(TrainingSettings)), *SHARED]
    own = {name: getattr(task.settings, name) for name in names} | {"epochs": task.settings.general_epochs}
    settings = DistillSettings(**own, method=Method.TINYBERT, prediction_weight=0).resolved()
    spec, domains, options = settings.student, len(task.heads.domains), settings.decisive()
    start = model_fingerprint(resolve(str(spec), "student")) if student_spec_is_path(spec) else None
    key = run_key(stage=STAGE, model=teacher, student=start, texts=texts.fingerprint, domains=domains, options=options)
    folder = out.resolve().parent / GENERAL / key[:16]
    if read_json_or_empty(folder / MODEL.run).get("key") == key and (folder / WEIGHTS).is_file():
        context.on_event(Note(f"general distillation: {folder} is up to date, not run again"))
        return folder
    check_stage_output(folder, STAGE, force=force, resume=resume)
    context.on_event(Note(f"general distillation: {texts.count:,} texts, into {folder}"))
    with run_folder(folder, key=key, options=options, resume=resume, context=context) as run:
        setup = _setup(task, texts, settings)
        objective = setup.objective(run, out)
        _freeze_unused(objective, context)
        trainer = Trainer(STAGE, objective, settings, run, setup.dev, factor=domains)
        trainer.run()
        if context.processes.is_main:
            named = _modules(objective).named_parameters()
            save_file({n: p.detach().cpu() for n, p in named if p.requires_grad}, run.work / WEIGHTS)
            record = {"format": 1, "stage": STAGE, "options": options, "data": texts.to_json(), "versions": versions()}
            record["models"] = {"teacher": {"name": str(task.teachers.path), "fingerprint": teacher}}
            results = {"steps": trainer.done, "seconds": trainer.seconds, "losses": trainer.metrics.losses}
            write_json(run.work / MODEL.run, {**record, "key": key, "results": results})
    task.student.requires_grad_(True)
    context.on_event(StageDone(STAGE, str(folder), trainer.done, trainer.seconds))
    return folder


def load_general(folder: Path, objective: DistillObjective) -> None:
    """Load what a general distillation learned into student and projections; the head stays as it is."""
    _modules(objective).load_state_dict(load_file(folder / WEIGHTS), strict=False)


def _modules(objective: DistillObjective) -> nn.ModuleDict:
    assert objective.projections is not None  # settings without hidden states are refused
    return nn.ModuleDict({"student": objective.student.model, "projections": objective.projections})


def _setup(task: DistillSetup, texts: ExtraTexts, settings: DistillSettings) -> DistillSetup:
    """Return the setup of a single domain, taught by the teacher that is best on average."""
    heads, root = DomainHeads({DOMAIN: ("any",)}, {DOMAIN: (0,)}, 1), task.teachers.root
    teachers = replace(task.teachers, models={DOMAIN: root}, heads=heads, folders={DOMAIN: task.teachers.path})
    rows = teacher_rows = _encode(texts, task.rows.encoder)
    if task.teacher_rows is not task.rows:
        teacher_rows = _encode(texts, task.teacher_rows.encoder)
    return replace(
        task, settings=settings, teachers=teachers, heads=heads, dev=None, rows=rows, teacher_rows=teacher_rows
    )


def _encode(texts: ExtraTexts, encoder: Encoder) -> EncodedSplit:
    """Encode texts that all have the same label."""
    labels = {DOMAIN: np.zeros(texts.count, dtype=np.int64)}
    return EncodedSplit(encoder, {DOMAIN: encoder.encode(texts.rows[""])}, labels)


def _freeze_unused(objective: DistillObjective, context: TrainContext) -> None:
    """Do not train what gets no gradient (pooler, head): its weights would decay and nothing else."""
    student = objective.student.model.train()
    with context.precision.forward():
        loss = objective.loss(objective.collate({DOMAIN: [0] * context.processes.size}))
    context.precision.backward(loss.total)
    for parameter in student.parameters():
        parameter.requires_grad_(parameter.grad is not None and bool(parameter.grad.any()))
    student.zero_grad(set_to_none=True)
