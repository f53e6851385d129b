"""Everything that a distillation consists of: opened, checked, and made into a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hrkd_cli.choices import Graph, Init, InstanceWeights
from hrkd_cli.data.batching import Sampler, bare_per_row
from hrkd_cli.data.dataset import Dataset
from hrkd_cli.data.unlabelled import BareTexts, MoreTexts
from hrkd_cli.distillation.cache_policy import teacher_outputs
from hrkd_cli.distillation.general import General, GeneralWork
from hrkd_cli.distillation.instance_weights import instance_weights
from hrkd_cli.distillation.task import Comparison, DistillTask
from hrkd_cli.distillation.teacher_outputs import TeacherOutputs
from hrkd_cli.distillation.teachers import Teachers, check_teachers, open_teachers
from hrkd_cli.distillation.upstream import student_tokenizer
from hrkd_cli.events import Note, OnEvent
from hrkd_cli.models.encoding import Encoded, Encoder, joined, make_encoder
from hrkd_cli.models.precision import Arithmetic
from hrkd_cli.models.sizes import sizes_of
from hrkd_cli.models.student import build_student
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.settings import DistillSettings
from hrkd_cli.training.fit import batch_size_of
from hrkd_cli.training.process_group import ProcessGroup
from hrkd_cli.training.rows import check_share, hold_back
from hrkd_cli.training.scoring import SplitLabels, encode_split, score
from hrkd_cli.training.stage import check_length, class_weights, make_sampler
from hrkd_cli.training.trainer import RunContext, Trainer


@dataclass(frozen=True, slots=True)
class Work:
    """Everything that a distillation consists of, opened and checked.

    Attributes:
        teachers: one a domain.
        teacher_rows: what is learnt from, as they see it: a domain's train split, then its unlabelled texts.
        own_tokenizer: whether the student's tokenizer is another one.
        student: the classifier to be trained.
        heads: its outputs.
        encoder: cuts and pads its inputs.
        train: the train split as it sees it.
        rows: what is learnt from, as it sees it; row i of a domain has a label where i < labelled[domain].
        dev: the dev split.
        dataset: the data.
        settings: resolved settings.
    """

    teachers: Teachers
    teacher_rows: tuple[Encoder, dict[str, Encoded]]
    own_tokenizer: bool
    student: Any
    heads: DomainHeads
    encoder: Encoder
    train: SplitLabels
    rows: dict[str, Encoded]
    dev: SplitLabels
    dataset: Dataset
    settings: DistillSettings

    @property
    def labelled(self) -> dict[str, int]:
        """Rows with a label by domain; they come before those without one."""
        return {domain: len(encoded) for domain, encoded in self.train.encoded.items()}

    @property
    def bare(self) -> dict[str, int]:
        """Rows without a label by domain, where there are some."""
        counts = {domain: len(encoded) - self.labelled[domain] for domain, encoded in self.rows.items()}
        return {domain: count for domain, count in counts.items() if count}

    @property
    def held_back(self) -> dict[str, list[int]]:
        """Numbers of the train rows by domain that a learned graph is judged on; none for other graphs."""
        settings = self.settings
        if settings.graph is not Graph.LEARNED:
            return {}
        return {
            domain: hold_back(labels, settings.held_back, f"{settings.seed}/held back/{domain}")
            for domain, labels in self.train.labels.items()
        }

    @classmethod
    def open(
        cls,
        path: Path,
        dataset: Dataset,
        settings: DistillSettings,
        *,
        texts: MoreTexts,
        name: str,
        arithmetic: Arithmetic,
        processes: ProcessGroup,
        on_event: OnEvent,
    ) -> Work:
        """Open the teachers, see that they are worth learning from, and make the student.

        Raises:
            HrkdError: something does not fit.
        """
        tokenizer = student_tokenizer(path, dataset, settings)
        device = arithmetic.device
        teachers = open_teachers(path, dataset, checkpoints=settings.teacher_checkpoints, device=device, name=name)
        teacher_encoder = check_teachers(
            teachers, path, dataset, settings, name=name, arithmetic=arithmetic, processes=processes, on_event=on_event
        )
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
        encoder = make_encoder(student, tokenizer or teachers.tokenizer, settings.max_length, settings.truncate)
        check_length(settings.max_length, student, encoder.tokenizer, "the student")
        student.to(device)
        train = encode_split(dataset, "train", encoder)
        rows = _with_bare(train.encoded, texts, encoder)
        teacher_rows = (encoder, rows)
        own = tokenizer is not None or encoder.takes_types != teacher_encoder.takes_types
        if own:
            encoded = encode_split(dataset, "train", teacher_encoder).encoded
            teacher_rows = (teacher_encoder, _with_bare(encoded, texts, teacher_encoder))
        dev = encode_split(dataset, "dev", encoder)
        return cls(teachers, teacher_rows, own, student, heads, encoder, train, rows, dev, dataset, settings)

    def general(self, texts: BareTexts, fingerprint: str) -> GeneralWork:
        """Return the general distillation that comes before this one; ``fingerprint`` is the teacher's."""
        encoders = (self.encoder, self.teacher_rows[0] if self.own_tokenizer else None)
        domains = len(self.heads.domains)
        return GeneralWork(self.teachers, fingerprint, self.student, encoders, texts, self.settings, domains)

    def run(self, place: RunContext, on_event: OnEvent, general: General | None = None) -> Trainer:
        """Make the run: decide where the teachers' outputs come from, and how large a batch is.

        ``general``: where student and projections start.
        """
        settings, arithmetic, processes = self.settings, place.arithmetic, place.processes
        task, cached = self._task(place, on_event)
        if general is not None:
            general.load(self.student, task.projections)
        extra = [] if task.projections is None else [task.projections]
        batch_size = batch_size_of(
            settings,
            task,
            [self.student, *extra],
            self.rows,
            arithmetic=arithmetic,
            processes=processes,
            on_event=on_event,
            decided=place.decided.get("batch_size"),
            extra=dict.fromkeys(self.bare, bare_per_row(settings.unlabelled_share)),
        )
        check_share(batch_size, len(self.heads.domains), processes)

        def sampler() -> Sampler:
            # The released code draws steps as they come and pads them all alike.
            return make_sampler(
                self.dataset,
                settings,
                batch_size,
                None if task.comparison.padded else self.rows,
                bare=self.bare,
                share=settings.unlabelled_share,
                held_back=self.held_back,
            )

        return Trainer(
            stage="distill",
            model=self.student,
            extra=extra,
            objective=task,
            make_sampler=sampler,
            score_dev=lambda: score(self.student, self.dev, self.heads, self.encoder, arithmetic, processes),
            dev_rows=self.dev.rows,
            settings=settings,
            place=place.remembering(cached=cached, batch_size=batch_size),
            on_event=on_event,
        )

    def _task(self, place: RunContext, on_event: OnEvent) -> tuple[DistillTask, bool]:
        """Make the task; and whether the teacher's outputs are cached."""
        settings, arithmetic, processes = self.settings, place.arithmetic, place.processes
        comparison = Comparison.of(settings, self.teachers.root.config, self.student.config)
        side, cached = teacher_outputs(
            self.teachers,
            self.teacher_rows,
            comparison,
            settings,
            place,
            out=place.out,
            own_tokenizer=self.own_tokenizer,
            passes=self._passes(),
            on_event=on_event,
        )
        task = DistillTask(
            side,
            self.student,
            self.heads,
            settings,
            comparison,
            teacher=self.teachers.root.config,
            rows=(self.encoder, self.rows),
            labels=self.train.labels,
            held_back=self.held_back,
            instance_weights=self._instance_weights(side, comparison, place, on_event),
            class_weights=class_weights(self.train, self.heads, settings, arithmetic.device),
            arithmetic=arithmetic,
            processes=processes,
        )
        return task, cached

    def _instance_weights(
        self, side: TeacherOutputs, comparison: Comparison, place: RunContext, on_event: OnEvent
    ) -> dict[str, np.ndarray] | None:
        """Return the weights of single rows, where they are wanted."""
        if self.settings.instance_weights is InstanceWeights.NONE:
            return None
        found = instance_weights(
            side,
            (self.encoder, self.rows),
            self.train.labels,
            width=sizes_of(self.teachers.root.config).width,
            pad_to=self.encoder.max_length if comparison.padded else None,
            arithmetic=place.arithmetic,
            processes=place.processes,
            on_event=on_event,
        )
        ranges = [f"{domain} {weights.min():.2f} to {weights.max():.2f}" for domain, weights in found.items()]
        on_event(Note(f"instance weights: {', '.join(ranges)}"))
        return found

    def _passes(self) -> float:
        """Return how many times the run reads each row, on average, counting an epoch as once at most."""
        labelled, bare = self.labelled, self.bare
        per_row = bare_per_row(self.settings.unlabelled_share)
        read = sum(count * (1 + per_row * (domain in bare)) for domain, count in labelled.items())
        first = self.settings.instance_weights is not InstanceWeights.NONE
        return first + self.settings.epochs * min(1.0, read / sum(len(encoded) for encoded in self.rows.values()))


def _with_bare(train: Mapping[str, Encoded], texts: MoreTexts, encoder: Encoder) -> dict[str, Encoded]:
    """Return each domain's train rows with its unlabelled texts after them."""
    bare = {} if texts.unlabelled is None else texts.unlabelled.rows
    return {d: joined(own, encoder.encode(bare[d])) if d in bare else own for d, own in train.items()}
