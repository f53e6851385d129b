"""Everything that a distillation consists of: opened, checked and encoded once, then made into a trainer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hrkd_cli.choices import Graph, Init, InstanceWeights
from hrkd_cli.data.batching import Sampler, bare_per_row
from hrkd_cli.data.dataset import Dataset
from hrkd_cli.data.unlabelled import MoreTexts
from hrkd_cli.distillation.cache_policy import teacher_outputs
from hrkd_cli.distillation.instance_weights import instance_weights
from hrkd_cli.distillation.task import Comparison, DistillTask
from hrkd_cli.distillation.teacher_outputs import TeacherOutputs
from hrkd_cli.distillation.teachers import Teachers, check_teachers, open_teachers
from hrkd_cli.evaluation.metrics import DomainScores
from hrkd_cli.events import Note
from hrkd_cli.models.encoding import Encoded, Encoder, joined, make_encoder
from hrkd_cli.models.sizes import sizes_of
from hrkd_cli.models.student import build_student
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.settings import DistillSettings
from hrkd_cli.training.auto_batch_size import batch_size_of
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.rows import hold_back
from hrkd_cli.training.run_folder import RunFolder
from hrkd_cli.training.scoring import EncodedSplit, check_length, encode_split, score
from hrkd_cli.training.trainer import Trainer


@dataclass(frozen=True, slots=True)
class DistillSetup:
    """Everything that a distillation consists of.

    Attributes:
        settings: resolved settings.
        teachers: one per domain.
        teacher_rows: the training data as they see it: a domain's train split, then its unlabelled texts.
        own_tokenizer: whether the student sees the data differently.
        student: the classifier to be trained.
        heads: its outputs.
        encoder: its tokenization.
        rows: the training data as it sees it; row i of a domain has a label where i < len(train.labels[domain]).
        train: the labelled rows.
        dev: the dev split; None where there is none.
    """

    settings: DistillSettings
    teachers: Teachers
    teacher_rows: tuple[Encoder, dict[str, Encoded]]
    own_tokenizer: bool
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
        heads: DomainHeads,
        tokenizer: Any | None,
        texts: MoreTexts,
        name: str,
        context: TrainContext,
    ) -> DistillSetup:
        """Open the teachers, check that they are worth learning from, make the student, encode the data.

        Args:
            path: the teacher's folder.
            dataset: the training data.
            settings: resolved settings.
            heads: outputs of the student.
            tokenizer: the student's own; None for the teacher's.
            texts: texts without labels.
            name: name of the teacher, for messages.
            context: see TrainContext.

        Raises:
            HrkdError: something does not fit.
        """
        precision, processes, on_event = context.precision, context.processes, context.on_event
        teachers = open_teachers(
            path, dataset, checkpoints=settings.teacher_checkpoints, device=context.device, name=name
        )
        teacher_encoder = check_teachers(
            teachers, path, dataset, settings, name=name, arithmetic=precision, processes=processes, on_event=on_event
        )
        student = build_student(
            settings.student,
            teachers.root,
            heads,
            teacher_heads=teachers.heads,
            init=settings.init or Init.TEACHER,
            seed=settings.seed,
            note=lambda text: on_event(Note(text)),
        )
        encoder = make_encoder(student, tokenizer or teachers.tokenizer, settings.max_length, settings.truncate)
        check_length(settings.max_length, student, encoder.tokenizer, "the student")
        student.to(context.device)
        train = encode_split(dataset, "train", encoder)
        rows = _with_unlabelled(train.encoded, texts, encoder)
        teacher_rows = (encoder, rows)
        own = tokenizer is not None or encoder.takes_types != teacher_encoder.takes_types
        if own:
            encoded = encode_split(dataset, "train", teacher_encoder).encoded
            teacher_rows = (teacher_encoder, _with_unlabelled(encoded, texts, teacher_encoder))
        dev = encode_split(dataset, "dev", encoder)
        return cls(settings, teachers, teacher_rows, own, student, heads, encoder, rows, train, dev)

    @property
    def unlabelled(self) -> dict[str, int]:
        """Rows without a label by domain, where there are some."""
        counts = {domain: len(rows) - len(self.train.labels[domain]) for domain, rows in self.rows.items()}
        return {domain: count for domain, count in counts.items() if count}

    @property
    def held_back(self) -> dict[str, list[int]]:
        """Numbers of the train rows by domain that a learned graph is judged on; none for other graphs."""
        if self.settings.graph is not Graph.LEARNED:
            return {}
        seed = f"{self.settings.seed}/held back"
        labels = self.train.labels
        return {d: hold_back(own, self.settings.held_back, f"{seed}/{d}") for d, own in labels.items()}

    def objective(self, run: RunFolder, context: TrainContext, out: Path) -> DistillTask:
        """Make the objective: decide where the teachers' outputs come from.

        ``out``: the student's folder, beside which teacher outputs are kept.
        """
        settings = self.settings
        comparison = Comparison.of(settings, self.teachers.root.config, self.student.config)
        decisions = run.checkpoint.decisions
        side, decisions["cached"] = teacher_outputs(
            self.teachers,
            self.teacher_rows,
            comparison,
            settings,
            before=decisions.get("cached"),
            out=out,
            own_tokenizer=self.own_tokenizer,
            passes=self._passes(),
            context=context,
        )
        return DistillTask(
            side,
            self.student,
            self.heads,
            settings,
            comparison,
            teacher=self.teachers.root.config,
            rows=(self.encoder, self.rows),
            labels=self.train.labels,
            held_back=self.held_back,
            instance_weights=self._instance_weights(side, comparison, context),
            class_weights=self.train.class_weights(self.heads, settings.class_weights),
            arithmetic=context.precision,
            processes=context.processes,
        )

    def trainer(
        self, objective: DistillTask, run: RunFolder, context: TrainContext, *, stage: str = "distill", factor: int = 1
    ) -> Trainer:
        """Make the trainer: decide how large a batch is; ``factor`` as for ``batch_size_of``."""
        settings, unlabelled, held_back = self.settings, self.unlabelled, self.held_back
        extra = [] if objective.projections is None else [objective.projections]
        size = batch_size_of(
            settings,
            objective,
            [self.student, *extra],
            objective.lengths,
            checkpoint=run.checkpoint,
            context=context,
            factor=factor,
            extra=dict.fromkeys(unlabelled, bare_per_row(settings.unlabelled_share)),
        )
        # The released code draws steps as they come and pads them all alike.
        lengths = {d: own.tolist() for d, own in objective.lengths.items()}

        def make_sampler() -> Sampler:
            return Sampler(
                {domain: len(labels) for domain, labels in self.train.labels.items()},
                batch_size=size * factor,
                sampling=settings.sampling,
                seed=settings.seed,
                lengths=None if objective.comparison.padded else lengths,
                bare=unlabelled,
                share=settings.unlabelled_share,
                held_back=held_back,
            )

        dev = self.dev

        def score_dev() -> dict[str, DomainScores]:
            assert dev is not None
            return score(self.student, dev, self.heads, self.encoder, context.precision, context.processes)

        return Trainer(
            stage=stage,
            model=self.student,
            extra=extra,
            objective=objective,
            make_sampler=make_sampler,
            score_dev=None if dev is None else score_dev,
            dev_rows=0 if dev is None else dev.rows,
            settings=settings,
            run=run,
            context=context,
        )

    def _instance_weights(
        self, side: TeacherOutputs, comparison: Comparison, context: TrainContext
    ) -> dict[str, np.ndarray] | None:
        """Return the weights of single rows; None where all count the same."""
        if self.settings.instance_weights is InstanceWeights.NONE:
            return None
        found = instance_weights(
            side,
            (self.encoder, self.rows),
            self.train.labels,
            width=sizes_of(self.teachers.root.config).width,
            pad_to=self.encoder.max_length if comparison.padded else None,
            arithmetic=context.precision,
            processes=context.processes,
            on_event=context.on_event,
        )
        ranges = [f"{domain} {weights.min():.2f} to {weights.max():.2f}" for domain, weights in found.items()]
        context.on_event(Note(f"instance weights: {', '.join(ranges)}"))
        return found

    def _passes(self) -> float:
        """Return how many times the run reads each row, on average, counting an epoch as once at most."""
        per_row = bare_per_row(self.settings.unlabelled_share)
        unlabelled, labels = self.unlabelled, self.train.labels
        read = sum(len(own) * (1 + per_row * (domain in unlabelled)) for domain, own in labels.items())
        first = self.settings.instance_weights is not InstanceWeights.NONE
        return first + self.settings.epochs * min(1.0, read / sum(len(encoded) for encoded in self.rows.values()))


def _with_unlabelled(train: Mapping[str, Encoded], texts: MoreTexts, encoder: Encoder) -> dict[str, Encoded]:
    """Return each domain's train rows with its unlabelled texts after them."""
    more = {} if texts.unlabelled is None else texts.unlabelled.rows
    return {d: joined(own, encoder.encode(more[d])) if d in more else own for d, own in train.items()}
