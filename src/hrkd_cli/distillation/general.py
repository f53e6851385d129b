"""General distillation: before its task, a student learns its teacher's hidden states and attention scores.

The same objective and trainer, with the prediction weight 0, on texts of any kind as a single domain. The weights and
projections lie in a folder named by everything that they depend on, and are reused by later runs.
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
from safetensors.torch import load_file, save_file

from hrkd_cli.choices import Method
from hrkd_cli.data.unlabelled import BareTexts
from hrkd_cli.distillation.setup import DistillSetup
from hrkd_cli.distillation.task import DistillTask
from hrkd_cli.events import Note, StageDone
from hrkd_cli.layout import GENERAL, MODEL
from hrkd_cli.models.folder import is_stage_folder, model_fingerprint, write_json
from hrkd_cli.models.loading import resolve
from hrkd_cli.models.student import student_spec_is_path
from hrkd_cli.predict.folder import read_json_or_empty
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.settings import DistillSettings, TrainingSettings
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.result import run_key, versions
from hrkd_cli.training.run_folder import check_stage_output, run_folder
from hrkd_cli.training.scoring import EncodedSplit

STAGE = "general"
DOMAIN = "texts"
SHARED = ("student", "init", "hidden_weight", "attention_weight", "means", "cache_teacher")  # beside the trainer's


def general_distillation(
    task: DistillSetup, texts: BareTexts, model: str, *, out: Path, force: bool, resume: bool, context: TrainContext
) -> Path:
    """Return the folder of what the task's student learns from ``texts``, learned now unless it is there.

    ``model`` is the teacher's fingerprint, ``out`` the student's folder; what is learned now is in the student too.
    """
    names = [*(f.name for f in fields(TrainingSettings)), *SHARED]
    own = {name: getattr(task.settings, name) for name in names} | {"epochs": task.settings.general_epochs}
    settings = DistillSettings(**own, method=Method.TINYBERT, prediction_weight=0).resolved()
    spec, domains, options = settings.student, len(task.heads.domains), settings.decisive()
    start = model_fingerprint(resolve(str(spec), "student")) if student_spec_is_path(spec) else None
    parts = {"student": start, "texts": texts.fingerprint, "domains": domains, "options": options}
    key = run_key(stage=STAGE, model=model, **parts)
    folder = out.resolve().parent / GENERAL.folder / key[:16]
    if read_json_or_empty(folder / MODEL.run).get("key") == key and (folder / GENERAL.weights).is_file():
        context.on_event(Note(f"general distillation: {folder} is up to date, not run again"))
        return folder
    check_stage_output(folder, kind="general distillation", is_ours=_is_ours, force=force, resume=resume)
    context.on_event(Note(f"general distillation: {texts.count:,} texts, into {folder}"))
    with run_folder(folder, key=key, options=options, resume=resume, context=context) as run:
        setup = _setup(task, texts, settings)
        objective = setup.objective(run, context, out)
        _freeze_unused(objective, context)
        trainer = setup.trainer(objective, run, context, stage=STAGE, factor=domains)  # as many rows as in the task
        output = trainer.run([DOMAIN])
        if context.processes.is_main:
            modules = {"student": task.student, "projections": objective.projections}
            named = {f"{m}.{n}": p for m, module in modules.items() for n, p in module.named_parameters()}
            save_file({n: p.detach().cpu() for n, p in named.items() if p.requires_grad}, run.work / GENERAL.weights)
            record = {"format": 1, "stage": STAGE, "options": options, "data": texts.to_json(), "versions": versions()}
            record["models"] = {"teacher": {"name": str(task.teachers.path), "fingerprint": model}}
            results = {"steps": output.steps, "seconds": output.seconds, "losses": output.losses}
            write_json(run.work / MODEL.run, {**record, "key": key, "results": results})
    task.student.requires_grad_(True)
    context.on_event(StageDone(STAGE, str(folder), output.steps, output.seconds))
    return folder


def _is_ours(folder: Path) -> bool:
    return is_stage_folder(folder, STAGE)


def load_general(folder: Path, objective: DistillTask) -> None:
    """Load what a general distillation learned into student and projections; the head stays as it is."""
    tensors = load_file(folder / GENERAL.weights)
    assert objective.projections is not None  # settings without hidden states are refused
    for prefix, module in (("student.", objective.student.model), ("projections.", objective.projections)):
        own = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        module.load_state_dict(own, strict=False)


def _setup(task: DistillSetup, texts: BareTexts, settings: DistillSettings) -> DistillSetup:
    """Return the setup of a single domain, taught by the teacher that is best on average."""
    heads, root = DomainHeads({DOMAIN: ("any",)}, {DOMAIN: (0,)}, 1), task.teachers.root
    teachers = replace(task.teachers, models={DOMAIN: root}, heads=heads, folders={DOMAIN: task.teachers.path})
    rows, reader = {DOMAIN: task.encoder.encode(texts.rows[""])}, task.teacher_rows[0]
    teacher_rows = (reader, {DOMAIN: reader.encode(texts.rows[""])} if task.own_tokenizer else rows)
    train = EncodedSplit(rows, {DOMAIN: np.zeros(texts.count, dtype=np.int64)})
    return replace(
        task,
        settings=settings,
        teachers=teachers,
        teacher_rows=teacher_rows,
        heads=heads,
        rows=rows,
        train=train,
        dev=None,
    )


def _freeze_unused(objective: DistillTask, context: TrainContext) -> None:
    """Do not train what gets no gradient (pooler, head): its weights would decay and nothing else."""
    student = objective.student.model.train()
    with context.precision.forward():
        loss = objective.loss(objective.collate({DOMAIN: [0] * context.processes.size}))
    loss.total.backward()  # type: ignore[no-untyped-call]
    for parameter in student.parameters():
        parameter.requires_grad_(parameter.grad is not None and bool(parameter.grad.any()))
    student.zero_grad(set_to_none=True)
