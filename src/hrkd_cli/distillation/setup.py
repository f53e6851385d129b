"""Everything that a distillation consists of: opened, checked and encoded once, then made into a trainer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hrkd_cli.choices import Init, InstanceWeights
from hrkd_cli.data.batching import Sampler, bare_per_row
from hrkd_cli.data.dataset import Dataset
from hrkd_cli.data.unlabelled import MoreTexts
from hrkd_cli.distillation.collate import Collate
from hrkd_cli.distillation.instance_weights import instance_weights
from hrkd_cli.distillation.objective import DistillObjective
from hrkd_cli.distillation.teacher_cache import with_cache
from hrkd_cli.distillation.teacher_outputs import Comparison, OnlineTeacher, TeacherOutputs
from hrkd_cli.distillation.teachers import Teachers, check_teachers, open_teachers
from hrkd_cli.events import Note
from hrkd_cli.layout import TEACHER_CACHE
from hrkd_cli.method import Need
from hrkd_cli.models.encoding import Encoded, Encoder, make_encoder
from hrkd_cli.models.sizes import sizes_of
from hrkd_cli.models.student_init import build_student
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.settings import DistillSettings
from hrkd_cli.training.auto_batch_size import batch_size_of
from hrkd_cli.training.checkpoint import Checkpointer
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.scoring import EncodedSplit, check_length, encode_split
from hrkd_cli.training.trainer import Trainer


@dataclass(frozen=True, slots=True)
class DistillSetup:
    """Everything that a distillation consists of.

    Attributes:
        settings: resolved settings.
        teachers: one per domain.
        teacher_rows: (encoder, rows), the training data as they see it: ``rows`` where the student sees the same.
        student: the classifier to be trained.
        heads: its outputs.
        encoder: its tokenization.
        rows: the training data as it sees it, a domain's train split, then its unlabelled texts: row i has a label
            where i < len(train.labels[domain]).
        train: the labelled rows.
        dev: the dev split; None where there is none.
    """

    settings: DistillSettings
    teachers: Teachers
    teacher_rows: tuple[Encoder, dict[str, Encoded]]
    student: Any
    heads: DomainHeads
    encoder: Encoder
    rows: dict[str, Encoded]
    train: EncodedSplit
    dev: EncodedSplit | None

    @classmethod
    def open(
        cls,
        path: Path,
        dataset: Dataset,
        settings: DistillSettings,
        *,
        tokenizer: Any | None,
        texts: MoreTexts,
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
        encoder = make_encoder(student, tokenizer or teachers.tokenizer, settings.max_length, settings.truncate)
        check_length(settings.max_length, student, encoder.tokenizer, "the student")
        student.to(device)
        train, dev = (encode_split(dataset, split, encoder) for split in ("train", "dev"))
        rows = _with_unlabelled(train.encoded, texts, encoder)
        teacher_rows = (encoder, rows)
        if tokenizer is not None or encoder.takes_types != reader.takes_types:
            own = encode_split(dataset, "train", reader).encoded
            teacher_rows = (reader, _with_unlabelled(own, texts, reader))
        return cls(settings, teachers, teacher_rows, student, heads, encoder, rows, train, dev)

    @property
    def unlabelled(self) -> dict[str, int]:
        """Rows without a label by domain, where there are some."""
        counts = {domain: len(rows) - len(self.train.labels[domain]) for domain, rows in self.rows.items()}
        return {domain: count for domain, count in counts.items() if count}

    def objective(self, run: Checkpointer, context: TrainContext, out: Path) -> DistillObjective:
        """Make the objective: decide where the teachers' outputs come from.

        ``out``: the student's folder, beside which teacher outputs are kept.
        """
        settings = self.settings
        comparison = Comparison.of(settings, self.teachers.root.config, self.student.config)
        width = sizes_of(self.teachers.root.config).width
        teacher = self._teacher_outputs(comparison, run, context, out)
        collate = Collate(
            teacher, (self.encoder, self.rows), context, labels=self.train.labels, pad_to=comparison.pad_to
        )
        if settings.instance_weights is not InstanceWeights.NONE:
            collate.instance_weights = instance_weights(collate, width)
        return DistillObjective(
            collate,
            self.student,
            self.heads,
            settings,
            comparison,
            width=width,
            class_weights=self.train.class_weights(self.heads, settings.class_weights),
        )

    def _teacher_outputs(
        self, comparison: Comparison, run: Checkpointer, context: TrainContext, out: Path
    ) -> TeacherOutputs | None:
        """Return where the teachers' outputs come from; None where no loss needs them."""
        if not comparison.needs(Need.HIDDEN, Need.ATTENTION, Need.LOGITS):
            return None
        own_tokenizer = self.teacher_rows[1] is not self.rows
        online = OnlineTeacher(
            self.teachers, comparison, self.teacher_rows, own_tokenizer=own_tokenizer, device=context.device
        )
        settings = self.settings
        # How many times the run reads each row, on average, counting an epoch as once at most.
        per_row, unlabelled = bare_per_row(settings.unlabelled_share), self.unlabelled
        read = sum(len(own) * (1 + per_row * (d in unlabelled)) for d, own in self.train.labels.items())
        passes = settings.epochs * min(1.0, read / sum(map(len, self.rows.values())))
        return with_cache(
            online,
            settings.cache_teacher,
            root=out.resolve().parent / TEACHER_CACHE,
            passes=passes + (settings.instance_weights is not InstanceWeights.NONE),
            run=run,
            context=context,
        )

    def trainer(
        self,
        objective: DistillObjective,
        run: Checkpointer,
        context: TrainContext,
        *,
        stage: str = "distill",
        factor: int = 1,
    ) -> Trainer:
        """Make the trainer: decide how large a batch is; ``factor`` as for ``batch_size_of``."""
        settings, unlabelled, lengths = self.settings, self.unlabelled, objective.collate.lengths
        extra = [] if objective.projections is None else [objective.projections]
        size = batch_size_of(
            settings,
            objective,
            [self.student, *extra],
            lengths,
            checkpoint=run,
            context=context,
            factor=factor,
            extra=dict.fromkeys(unlabelled, bare_per_row(settings.unlabelled_share)),
        )

        def make_sampler() -> Sampler:
            # The released code draws steps as they come and pads them all alike.
            by_length = None if objective.comparison.pad_to else {d: own.tolist() for d, own in lengths.items()}
            return Sampler(
                {domain: len(labels) for domain, labels in self.train.labels.items()},
                batch_size=size * factor,
                sampling=settings.sampling,
                seed=settings.seed,
                lengths=by_length,
                bare=unlabelled,
                share=settings.unlabelled_share,
                held_back=objective.held_back,
            )

        return Trainer(
            stage=stage,
            model=self.student,
            extra=extra,
            objective=objective,
            make_sampler=make_sampler,
            heads=self.heads,
            encoder=self.encoder,
            dev=self.dev,
            settings=settings,
            checkpoint=run,
            context=context,
        )


def _with_unlabelled(train: Mapping[str, Encoded], texts: MoreTexts, encoder: Encoder) -> dict[str, Encoded]:
    """Return each domain's train rows with its unlabelled texts after them."""
    more = {} if texts.unlabelled is None else texts.unlabelled.rows
    return {d: own + encoder.encode(more[d]) if d in more else own for d, own in train.items()}
