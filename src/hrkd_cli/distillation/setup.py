"""Everything that a distillation consists of: opened, checked and encoded once, then made into a trainer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hrkd_cli.choices import Init, InstanceWeights
from hrkd_cli.data.dataset import Dataset
from hrkd_cli.data.sampler import unlabeled_per_labeled
from hrkd_cli.data.unlabeled import UnlabeledTexts
from hrkd_cli.distillation.collate import DistillCollate
from hrkd_cli.distillation.instance_weights import instance_weights
from hrkd_cli.distillation.objective import DistillObjective
from hrkd_cli.distillation.teacher_cache import TeacherOutputs, with_cache
from hrkd_cli.distillation.teachers import Comparison, OnlineTeacher, Teachers, check_teachers, open_teachers
from hrkd_cli.events import Note
from hrkd_cli.layout import TEACHER_CACHE
from hrkd_cli.method import Requirement
from hrkd_cli.models.encoding import Encoder
from hrkd_cli.models.student_init import build_student
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.settings import DistillSettings
from hrkd_cli.training.checkpoint import Checkpointer
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.dev_scoring import check_length
from hrkd_cli.training.rows import EncodedSplit, encode_split


@dataclass(frozen=True, slots=True)
class DistillSetup:
    """Everything that a distillation consists of.

    Attributes:
        settings: resolved settings.
        context: see TrainContext.
        teachers: one per domain.
        teacher_rows: the training data as they see it: ``rows`` where the student sees the same.
        student: the classifier to be trained.
        heads: its outputs.
        rows: the training data as it sees it, a domain's train split, then its unlabeled texts.
        dev: the dev split.
    """

    settings: DistillSettings
    context: TrainContext
    teachers: Teachers
    teacher_rows: EncodedSplit
    student: Any
    heads: DomainHeads
    rows: EncodedSplit
    dev: EncodedSplit

    @classmethod
    def open(
        cls,
        path: Path,
        dataset: Dataset,
        settings: DistillSettings,
        *,
        tokenizer: Any | None,
        unlabeled: UnlabeledTexts | None,
        name: str,
        context: TrainContext,
    ) -> DistillSetup:
        """Open the teachers, check that they are worth learning from, make the student, encode the data.

        ``path`` and ``name`` are the teacher's, ``tokenizer`` the student's own; None for the teacher's.

        Raises:
            HrkdError: something does not fit.
        """
        checkpoints, device = settings.teacher_checkpoints, context.device
        teachers = open_teachers(path, dataset, checkpoints=checkpoints, device=device, name=name)
        reader = check_teachers(teachers, dataset, settings, name=name, context=context)
        heads = DomainHeads.build(dataset.labels)
        student = build_student(
            settings.student,
            teachers.root,
            heads,
            teacher_heads=teachers.heads,
            init=settings.init or Init.TEACHER,
            seed=settings.seed,
            note=lambda text: context.on_event(Note(text)),
        )
        encoder = Encoder(student, tokenizer or teachers.tokenizer, settings.max_length, settings.truncate)
        check_length(settings.max_length, student, encoder.tokenizer, "the student")
        student.to(device)
        texts = unlabeled.rows if unlabeled is not None else None
        rows = teacher_rows = encode_split(dataset, "train", encoder, texts)
        if tokenizer is not None or encoder.inputs != reader.inputs:
            teacher_rows = encode_split(dataset, "train", reader, texts)
        dev = encode_split(dataset, "dev", encoder)
        return cls(settings, context, teachers, teacher_rows, student, heads, rows, dev)

    def objective(self, run: Checkpointer, out: Path) -> DistillObjective:
        """Make the objective: decide where the teachers' outputs come from.

        ``out``: the student's folder, beside which teacher outputs are kept.
        """
        settings, rows, context = self.settings, self.rows, self.context
        comparison = Comparison.of(settings, self.teachers.root.config, self.student.config)
        weigh = settings.instance_weights is not InstanceWeights.NONE
        teacher: TeacherOutputs | None = None
        if comparison.needs(Requirement.HIDDEN_STATES, Requirement.QUERIES_KEYS, Requirement.LOGITS):
            own_tokenizer = self.teacher_rows is not rows
            teacher = OnlineTeacher(
                self.teachers, comparison, self.teacher_rows, own_tokenizer=own_tokenizer, device=context.device
            )
            # How many times the run reads each row, on average, counting an epoch as once at most.
            per_row = unlabeled_per_labeled(settings.unlabelled_share)
            read = sum(len(own) * (1 + per_row * (d in rows.unlabeled)) for d, own in rows.labels.items())
            passes = settings.epochs * min(1.0, read / rows.count) + weigh
            root = out.resolve().parent / TEACHER_CACHE
            teacher = with_cache(teacher, settings.cache_teacher, root=root, passes=passes, run=run, context=context)
        collate = DistillCollate(teacher, rows, context, pad_to=comparison.pad_to)
        if weigh:
            collate.instance_weights = instance_weights(collate, comparison.width)
        return DistillObjective(collate, self.student, self.heads, settings, comparison)
