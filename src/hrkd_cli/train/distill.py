"""Distillation: teacher and data in, student folder out. Runs the stages before it where they are missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hrkd_cli import __version__
from hrkd_cli.config import DistillSettings, Graph, Init, InstanceWeights, LossScale
from hrkd_cli.data.batching import Sampler, bare_per_row
from hrkd_cli.data.dataset import Dataset
from hrkd_cli.data.opening import load_for_training
from hrkd_cli.data.unlabelled import BareTexts, MoreTexts
from hrkd_cli.events import Note, OnEvent, StageDone, ignore
from hrkd_cli.layout import DATASET_OUT, STUDENT_OUT, TEACHER_OUT
from hrkd_cli.model.encoding import Encoded, Encoder, joined, make_encoder
from hrkd_cli.model.folder import is_stage_folder, model_fingerprint
from hrkd_cli.model.loading import is_classifier, read_config
from hrkd_cli.model.precision import Arithmetic
from hrkd_cli.model.sizes import sizes_of
from hrkd_cli.model.student import build_student
from hrkd_cli.runtime.heads import DomainHeads
from hrkd_cli.train.checks import check_graph, check_places, chosen_domains
from hrkd_cli.train.fit import batch_size_of
from hrkd_cli.train.general import General, GeneralWork, ensure_general
from hrkd_cli.train.instance_weights import instance_weights
from hrkd_cli.train.result import TrainResult, run_key
from hrkd_cli.train.rows import check_share, hold_back
from hrkd_cli.train.run import Place, Run
from hrkd_cli.train.scoring import SplitLabels, encode_split, score
from hrkd_cli.train.side_choice import teacher_side
from hrkd_cli.train.stage import (
    Finished,
    check_length,
    check_stage_output,
    check_trainable,
    class_weights,
    finished_before,
    make_sampler,
    seed_everything,
    stage_place,
    start,
)
from hrkd_cli.train.task import Comparison, DistillTask
from hrkd_cli.train.teacher_side import TeacherSide
from hrkd_cli.train.teachers import Teachers, check_teachers, open_teachers
from hrkd_cli.train.upstream import ensure_taught, student_tokenizer
from hrkd_cli.train.world import World


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
        **options: fields of ``hrkd_cli.config.DistillSettings``.

    Raises:
        HrkdError: a user's error, in one line (see ``hrkd_cli.errors``).
    """
    settings = DistillSettings.of(**options)
    out, name = Path(out), str(teacher)
    check_stage_output(out, kind="student", is_ours=is_student, force=force, resume=resume)
    path = check_places(teacher, data, out, settings)
    engine = start(settings)
    world = engine[1]
    on_event = on_event if world.is_main else ignore
    dataset = world.first(lambda: load_for_training(data, force=force, on_event=on_event))
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
    engine: tuple[Arithmetic, World] | None = None,
    texts: MoreTexts | None = None,
) -> TrainResult:
    """Distil the classifier in ``path`` on a dataset in memory; ``settings`` are resolved. See distill.

    ``texts`` are those that the settings name, where they have been read already.
    """
    check_trainable(dataset)
    check_graph(settings, dataset)
    arithmetic, world = engine or start(settings)
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
        path, dataset, settings, texts=texts, name=name, arithmetic=arithmetic, world=world, on_event=on_event
    )
    general = None
    if texts.general is not None:
        before = work.general(texts.general, fingerprint)
        general = ensure_general(
            before, out=out, force=force, resume=resume, engine=(arithmetic, world), on_event=on_event
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
    with stage_place(out, key=key, options=options, resume=resume, arithmetic=arithmetic, world=world) as place:
        run = work.run(place, on_event, general)
        result = finished.write(place, run.run(work.heads.domains))
    on_event(StageDone("distill", str(out), result.steps, result.seconds))
    return result


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
        world: World,
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
            teachers, path, dataset, settings, name=name, arithmetic=arithmetic, world=world, on_event=on_event
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

    def run(self, place: Place, on_event: OnEvent, general: General | None = None) -> Run:
        """Make the run: decide where the teachers' outputs come from, and how large a batch is.

        ``general``: where student and projections start.
        """
        settings, arithmetic, world = self.settings, place.arithmetic, place.world
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
            world=world,
            on_event=on_event,
            decided=place.decided.get("batch_size"),
            extra=dict.fromkeys(self.bare, bare_per_row(settings.unlabelled_share)),
        )
        check_share(batch_size, len(self.heads.domains), world)

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

        if settings.loss_scale is LossScale.RELATIVE and task.comparison.layers:
            task.measure(next(sampler()))
        return Run(
            stage="distill",
            model=self.student,
            extra=extra,
            task=task,
            make_sampler=sampler,
            score_dev=lambda: score(self.student, self.dev, self.heads, self.encoder, arithmetic, world),
            dev_rows=self.dev.rows,
            settings=settings,
            place=place.remembering(cached=cached, batch_size=batch_size),
            on_event=on_event,
        )

    def _task(self, place: Place, on_event: OnEvent) -> tuple[DistillTask, str]:
        """Make the task; and what was decided about the teachers' outputs."""
        settings, arithmetic, world = self.settings, place.arithmetic, place.world
        comparison = Comparison.of(settings, self.teachers.root.config, self.student.config)
        side, cached = teacher_side(
            self.teachers,
            self.teacher_rows,
            comparison,
            settings,
            own_tokenizer=self.own_tokenizer,
            out=place.out,
            decided=place.decided.get("cached"),
            passes=self._passes(),
            arithmetic=arithmetic,
            world=world,
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
            world=world,
        )
        return task, cached

    def _instance_weights(
        self, side: TeacherSide, comparison: Comparison, place: Place, on_event: OnEvent
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
            world=place.world,
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
