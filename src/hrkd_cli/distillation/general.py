"""General distillation: before its task, a student learns its teacher's hidden states and attention scores alone.

On texts of any kind, all of one pseudo-domain: no predictions, no domain ratios. What comes out (weights and
projections) lies in a folder named by everything that it depends on, beside the student, and is used again by every
later run that asks for the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from hrkd_cli.choices import ClassWeights, InstanceWeights, Method, Sampling
from hrkd_cli.data.batching import Sampler
from hrkd_cli.data.unlabelled import BareTexts
from hrkd_cli.distillation.cache_policy import teacher_outputs
from hrkd_cli.distillation.task import Comparison, DistillBatch, DistillTask
from hrkd_cli.distillation.teachers import Teachers
from hrkd_cli.events import Note, OnEvent, StageDone
from hrkd_cli.layout import GENERAL, MODEL
from hrkd_cli.models.encoding import Encoder
from hrkd_cli.models.folder import is_stage_folder, model_fingerprint, write_json
from hrkd_cli.models.loading import resolve
from hrkd_cli.models.precision import Arithmetic
from hrkd_cli.models.student import student_spec_is_path
from hrkd_cli.predict.folder import read_json_or_empty
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.settings import DistillSettings
from hrkd_cli.training.fit import batch_size_of
from hrkd_cli.training.loop import LossOutput
from hrkd_cli.training.process_group import ProcessGroup
from hrkd_cli.training.result import run_key, versions
from hrkd_cli.training.rows import check_share
from hrkd_cli.training.stage import check_stage_output, stage_place
from hrkd_cli.training.trainer import RunContext, Trainer, TrainOutput

STAGE = "general"
TEXTS = "texts"  # the pseudo-domain
# What its weights depend on; the rest of a distillation's options are the task's own.
DECISIVE = (
    "epochs",
    "batch_size",
    "accumulate",
    "learning_rate",
    "weight_decay",
    "warmup",
    "max_length",
    "truncate",
    "precision",
    "seed",
    "student",
    "init",
    "hidden_weight",
    "attention_weight",
    "means",
)


@dataclass(frozen=True, slots=True)
class General:
    """What a finished general distillation left.

    Attributes:
        folder: where it lies.
        record: content of its ``hrkd.json``.
    """

    folder: Path
    record: Mapping[str, Any]

    def load(self, student: nn.Module, projections: nn.Module | None) -> None:
        """Put its weights into a student and the student's projections; the student's head is left as it is."""
        assert projections is not None  # settings without hidden states are refused
        tensors = load_file(self.folder / GENERAL.weights)
        for module, prefix, strict in ((student, "student.", False), (projections, "projections.", True)):
            own = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            module.load_state_dict(own, strict=strict)

    def summary(self) -> dict[str, Any]:
        """Return what the student's record tells of it."""
        return {"key": self.record["key"], **self.record["results"]}


class GeneralTask(DistillTask):
    """The hidden-state and attention losses of a distillation, without the prediction loss."""

    def loss(self, batch: Sequence[DistillBatch]) -> LossOutput:
        """Run one step's rows."""
        parts = super().loss(batch).by_kind
        # Not the total with a weight of 0: the head would get gradients of 0, and its weights would decay.
        return LossOutput(parts["hidden"] + parts["attention"], {name: parts[name] for name in ("hidden", "attention")})


@dataclass(frozen=True, slots=True)
class GeneralWork:
    """Everything that a general distillation consists of.

    Attributes:
        teachers: those of the task; the one that is best on average teaches here.
        fingerprint: of its folder.
        student: the student, with its first weights.
        encoders: the student's, and the teacher's where it takes other inputs (else None).
        texts: what is learnt from.
        settings: resolved settings of the distillation.
        domains: domains of the task: a step has the rows of a step of the task.
    """

    teachers: Teachers
    fingerprint: str
    student: Any
    encoders: tuple[Encoder, Encoder | None]
    texts: BareTexts
    settings: DistillSettings
    domains: int

    def own_settings(self) -> DistillSettings:
        """Return the settings of this stage: the task's, without what concerns labels and domains."""
        own = {field.name: getattr(self.settings, field.name) for field in fields(self.settings)}
        own |= {"epochs": self.settings.general_epochs, "method": Method.TINYBERT, "graph": None, "hierarchy": None}
        own |= {"sampling": Sampling.COVER, "class_weights": ClassWeights.NONE, "patience": None, "eval_every": None}
        own |= {"label_weight": 0.0, "domains": None}
        own |= {"instance_weights": InstanceWeights.NONE}
        return DistillSettings(**{**own, "general": None, "unlabelled": None}).resolved()

    def options(self) -> dict[str, Any]:
        """Return the options that the weights depend on."""
        own = self.own_settings().to_json()
        return {name: own[name] for name in DECISIVE}

    def key(self) -> str:
        """Return what the weights depend on."""
        spec = self.settings.student
        start = model_fingerprint(resolve(str(spec), "student")) if student_spec_is_path(spec) else None
        return run_key(
            stage=STAGE,
            model=self.fingerprint,
            student=start,
            texts=self.texts.fingerprint,
            domains=self.domains,
            options=self.options(),
        )

    def run(self, place: RunContext, out: Path, on_event: OnEvent) -> Trainer:
        """Make the run; ``out`` is the student's folder, beside which teacher outputs are kept."""
        settings = self.own_settings()
        task, cached = self._task(place, out, settings, on_event)
        encoded = task.encoded
        assert task.projections is not None
        trained = nn.ModuleList([self.student, task.projections])
        size = self._batch_size(task, trained, settings, place, on_event)
        _spare_untouched(task, trained, place.arithmetic)

        def sampler() -> Sampler:
            return Sampler(
                {TEXTS: len(encoded[TEXTS])},
                batch_size=size * self.domains,
                sampling=settings.sampling,
                seed=settings.seed,
                lengths=None if task.comparison.padded else {TEXTS: encoded[TEXTS].lengths().tolist()},
            )

        return Trainer(
            stage=STAGE,
            model=trained,
            extra=[],
            objective=task,
            make_sampler=sampler,
            score_dev=None,
            dev_rows=0,
            settings=settings,
            place=place.remembering(cached=cached, batch_size=size),
            on_event=on_event,
        )

    def _task(
        self, place: RunContext, out: Path, settings: DistillSettings, on_event: OnEvent
    ) -> tuple[GeneralTask, bool]:
        """Make the task, of one pseudo-domain; and whether the teacher's outputs are cached."""
        arithmetic, processes = place.arithmetic, place.processes
        heads = DomainHeads({TEXTS: ("any",)}, {TEXTS: (0,)}, 1)  # predictions are not looked at
        root, path = self.teachers.root, self.teachers.path
        teachers = replace(self.teachers, models={TEXTS: root}, heads=heads, folders={TEXTS: path})
        comparison = Comparison.of(settings, root.config, self.student.config)
        encoder, other = self.encoders
        encoded = {TEXTS: encoder.encode(self.texts.rows[""])}
        side, cached = teacher_outputs(
            teachers,
            (encoder, encoded) if other is None else (other, {TEXTS: other.encode(self.texts.rows[""])}),
            comparison,
            settings,
            place,
            out=out,
            own_tokenizer=other is not None,
            passes=settings.epochs,
            on_event=on_event,
        )
        task = GeneralTask(
            side,
            self.student,
            heads,
            settings,
            comparison,
            teacher=root.config,
            rows=(encoder, encoded),
            class_weights={TEXTS: None},
            arithmetic=arithmetic,
            processes=processes,
        )
        return task, cached

    def write(self, place: RunContext, trained: TrainOutput, names: list[str], key: str) -> None:
        """Write weights and record, and drop what the run kept."""
        kept = load_file(trained.best.file)
        tensors = {f"student.{name}": kept[f"0.{name}"] for name in names}
        tensors |= {f"projections.{name[2:]}": t for name, t in kept.items() if name.startswith("1.")}
        save_file(tensors, place.work / GENERAL.weights)
        trained.best.file.unlink()
        last = json.loads((place.work / MODEL.metrics).read_text(encoding="utf-8").splitlines()[-1])
        record = {
            "format": 1,
            "stage": STAGE,
            "options": self.options(),
            "models": {"teacher": {"name": str(self.teachers.path), "fingerprint": self.fingerprint}},
            "data": self.texts.to_json(),
            "versions": versions(),
            "precision": str(place.arithmetic.precision),
            "key": key,
            "results": {"steps": trained.steps, "seconds": trained.seconds, "losses": last["losses"]},
        }
        write_json(place.work / MODEL.run, record)

    def _batch_size(
        self,
        task: GeneralTask,
        trained: nn.Module,
        settings: DistillSettings,
        place: RunContext,
        on_event: OnEvent,
    ) -> int:
        """Return the rows of a domain in a step of the task; a step here has as many as all domains have there."""
        size = batch_size_of(
            settings,
            task,
            [trained],
            task.encoded,
            arithmetic=place.arithmetic,
            processes=place.processes,
            on_event=on_event,
            decided=place.decided.get("batch_size"),
            extra={TEXTS: self.domains - 1},
        )
        check_share(size, self.domains, place.processes)
        return size


def ensure_general(
    work: GeneralWork,
    *,
    out: Path,
    force: bool,
    resume: bool,
    engine: tuple[Arithmetic, ProcessGroup],
    on_event: OnEvent,
) -> General:
    """Return the general distillation that ``work`` describes: one that is there, else a new one.

    Raises:
        OutputError: one was cut off, and neither ``force`` nor ``resume`` says what to do about it.
        TrainingError: the loss is not a number.
    """
    (arithmetic, processes), key = engine, work.key()
    folder = general_root(out) / key[:16]
    record = read_json_or_empty(folder / MODEL.run)
    if record.get("key") == key and (folder / GENERAL.weights).is_file():
        on_event(Note(f"general distillation: {folder} is up to date, not run again"))
        return General(folder, record)
    check_stage_output(folder, kind="general distillation", is_ours=_is_general, force=force, resume=resume)
    on_event(Note(f"general distillation: {work.texts.count:,} texts, into {folder}"))
    options = work.options()
    with stage_place(
        folder, key=key, options=options, resume=resume, arithmetic=arithmetic, processes=processes
    ) as place:
        needed = [p for p in work.student.parameters() if p.requires_grad]
        try:
            run = work.run(place, out, on_event)
            names = [name for name, p in work.student.named_parameters() if p.requires_grad]
            trained = run.run([TEXTS])
        finally:
            for parameter in needed:
                parameter.requires_grad_(True)
        if processes.is_main:
            work.write(place, trained, names, key)
    on_event(StageDone(STAGE, str(folder), trained.steps, trained.seconds))
    return General(folder, read_json_or_empty(folder / MODEL.run))


def general_root(out: Path) -> Path:
    """Return the folder of all general distillations beside a student's output."""
    return out.resolve().parent / GENERAL.folder


def _is_general(folder: Path) -> bool:
    return is_stage_folder(folder, STAGE)


def _spare_untouched(task: GeneralTask, trained: nn.Module, arithmetic: Arithmetic) -> None:
    """Take what gets no gradient (pooler, head) out of the training: its weights would decay and nothing else."""
    parameters = [p for p in trained.parameters() if p.requires_grad]
    trained.train()
    with arithmetic.forward():
        total = task.loss(task.collate({TEXTS: [0] * task.processes.size})).total
    for parameter, gradient in zip(parameters, torch.autograd.grad(total, parameters, allow_unused=True), strict=True):
        parameter.requires_grad_(gradient is not None)


__all__ = ["General", "GeneralWork", "ensure_general", "general_root"]
