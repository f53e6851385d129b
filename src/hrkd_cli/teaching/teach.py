"""Teaching: one encoder fine-tuned on all domains, a head a domain (the paper's section 4.1)."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hrkd_cli import __version__
from hrkd_cli.data.dataset import Dataset
from hrkd_cli.data.opening import load_for_training
from hrkd_cli.events import Note, OnEvent, StageDone, ignore
from hrkd_cli.layout import DATASET_OUT, MODEL, TEACHER_OUT
from hrkd_cli.models.capture import Capture
from hrkd_cli.models.encoding import Batch, Encoder, make_encoder, to_device
from hrkd_cli.models.folder import is_stage_folder, model_fingerprint
from hrkd_cli.models.loading import load_classifier, load_tokenizer, resolve
from hrkd_cli.models.precision import Arithmetic
from hrkd_cli.models.unpadded import Layout
from hrkd_cli.outputs import check_apart
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.settings import TeachSettings, TrainingSettings
from hrkd_cli.training.columns import Columns
from hrkd_cli.training.fit import batch_size_of
from hrkd_cli.training.loop import LossOutput, Rows
from hrkd_cli.training.optimizer import Optimizer
from hrkd_cli.training.process_group import SINGLE_PROCESS, ProcessGroup
from hrkd_cli.training.result import TrainResult, run_key
from hrkd_cli.training.rows import Pick, check_share, lay_out, picks_of, pieces_of, side_by_side
from hrkd_cli.training.scoring import SplitLabels, encode_split, score
from hrkd_cli.training.stage import (
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
from hrkd_cli.training.trainer import RunContext, Trainer


def teach(
    model: str | Path,
    *,
    data: str | Path = DATASET_OUT,
    out: str | Path = TEACHER_OUT,
    force: bool = False,
    resume: bool = False,
    on_event: OnEvent = ignore,
    sources: Mapping[str, str] | None = None,
    **options: Any,
) -> TrainResult:
    """Fine-tune an encoder on all domains of a dataset.

    Args:
        model: folder or hub id of an encoder.
        data: prepared dataset folder, or a raw source (prepared into ``hrkd-out/dataset`` first).
        out: folder to write.
        force: replace an existing output.
        resume: go on with a run that was cut off; start anew where there is none, and return the result of one that
            is finished.
        on_event: told what happens.
        sources: where each option came from, for the record.
        **options: fields of ``hrkd_cli.settings.TeachSettings``.

    Raises:
        HrkdError: a user's error, in one line (see ``hrkd_cli.errors``).
    """
    settings = TeachSettings(**options)
    out = Path(out)
    check_stage_output(out, kind="teacher", is_ours=is_teacher, force=force, resume=resume)
    path = resolve(model)
    check_apart(out, {"model": path, "data": Path(data), "dataset": DATASET_OUT})
    arithmetic, processes = start(settings)
    on_event = on_event if processes.is_main else ignore
    dataset = processes.main_first(lambda: load_for_training(data, force=force, on_event=on_event))
    return teach_on(
        path,
        dataset,
        settings,
        out=out,
        name=str(model),
        resume=resume,
        on_event=on_event,
        sources=sources or {},
        engine=(arithmetic, processes),
    )


def teach_on(
    path: Path,
    dataset: Dataset,
    settings: TeachSettings,
    *,
    out: Path,
    name: str,
    resume: bool = False,
    on_event: OnEvent = ignore,
    sources: Mapping[str, str] | None = None,
    engine: tuple[Arithmetic, ProcessGroup] | None = None,
) -> TrainResult:
    """Fine-tune the encoder in ``path`` on a dataset in memory; see teach."""
    check_trainable(dataset)
    arithmetic, processes = engine or start(settings)
    key = teach_key(path, dataset, settings)
    if resume and (done := finished_before(out, key=key, kind="teacher", is_ours=is_teacher)):
        on_event(Note(f"{out} is finished already"))
        return done
    seed_everything(settings.seed)
    work = Work.open(path, dataset, settings, name=name, device=arithmetic.device)
    finished = Finished(
        stage="teach",
        model=work.model,
        tokenizer=work.encoder.tokenizer,
        heads=work.heads,
        dataset=dataset,
        settings=settings,
        what=f"A multi-domain text classifier, `{name}` fine-tuned with hrkd-cli {__version__}.",
        start=name,
        models={"start": {"name": name, "fingerprint": model_fingerprint(path)}},
        key=key,
        sources=sources or {},
    )
    options = settings.decisive()
    with stage_place(out, key=key, options=options, resume=resume, arithmetic=arithmetic, processes=processes) as place:
        trained = work.run(place, on_event).run(work.heads.domains)
        if processes.is_main:
            for domain, kept in trained.best_by_domain.items():
                if kept.step != trained.best.step:
                    kept.load(work.model)
                    finished.save(place.work / MODEL.best / domain)
        result = finished.write(place, trained)
    on_event(StageDone("teach", str(out), result.steps, result.seconds))
    return result


@dataclass(frozen=True, slots=True)
class Work:
    """Everything that teaching consists of, opened and checked.

    Attributes:
        model: the classifier to be trained.
        heads: its outputs.
        encoder: cuts and pads its inputs.
        train: the train split as it sees it.
        dev: the dev split.
        dataset: the data.
        settings: see TeachSettings.
    """

    model: Any
    heads: DomainHeads
    encoder: Encoder
    train: SplitLabels
    dev: SplitLabels
    dataset: Dataset
    settings: TeachSettings

    @classmethod
    def open(cls, path: Path, dataset: Dataset, settings: TeachSettings, *, name: str, device: torch.device) -> Work:
        """Put heads on the encoder in ``path`` and encode the data.

        Raises:
            HrkdError: something does not fit.
        """
        heads = DomainHeads.build(dataset.labels)
        tokenizer = load_tokenizer(path)
        model = load_classifier(path, heads)
        check_length(settings.max_length, model, tokenizer, name)
        encoder = make_encoder(model, tokenizer, settings.max_length, settings.truncate)
        model.to(device)
        train, dev = (encode_split(dataset, split, encoder) for split in ("train", "dev"))
        return cls(model, heads, encoder, train, dev, dataset, settings)

    def run(self, place: RunContext, on_event: OnEvent) -> Trainer:
        """Make the run: decide how large a batch is."""
        settings, arithmetic, processes = self.settings, place.arithmetic, place.processes
        task = FineTuningObjective(
            self.model, self.train, self.heads, self.encoder, settings, arithmetic.device, processes
        )
        batch_size = batch_size_of(
            settings,
            task,
            [self.model],
            self.train.encoded,
            arithmetic=arithmetic,
            processes=processes,
            on_event=on_event,
            decided=place.decided.get("batch_size"),
        )
        check_share(batch_size, len(self.heads.domains), processes)
        return Trainer(
            stage="teach",
            model=self.model,
            extra=[],
            objective=task,
            make_sampler=lambda: make_sampler(self.dataset, settings, batch_size, self.train.encoded),
            score_dev=lambda: score(self.model, self.dev, self.heads, self.encoder, arithmetic, processes),
            dev_rows=self.dev.rows,
            settings=settings,
            place=place.remembering(batch_size=batch_size),
            on_event=on_event,
        )


def teach_key(path: Path, dataset: Dataset, settings: TeachSettings) -> str:
    """Return what a teacher depends on, so that an unchanged one can be used again."""
    options = settings.decisive()
    return run_key(stage="teach", model=model_fingerprint(path), data=dataset.fingerprint, options=options)


def is_teacher(folder: Path) -> bool:
    """Tell a folder that ``hrkd teach`` wrote."""
    return is_stage_folder(folder, "teach")


@dataclass(frozen=True, slots=True)
class TeachBatch:
    """Rows of a step on the device.

    Attributes:
        batch: the model's inputs.
        domains: (R,), each row's domain by number.
        labels: (R,), among those of its domain.
        weights: (R,), adding up to 1 in each domain of the whole step.
    """

    batch: Batch
    domains: Tensor
    labels: Tensor
    weights: Tensor


class FineTuningObjective:
    """Cross-entropy of every domain's rows, summed over domains.

    Args:
        model: the classifier.
        train: the train split.
        heads: its outputs.
        encoder: pads its inputs.
        settings: for the class weights.
        device: where the model is.
        processes: the processes that share each step.
    """

    def __init__(
        self,
        model: Any,
        train: SplitLabels,
        heads: DomainHeads,
        encoder: Encoder,
        settings: TrainingSettings,
        device: torch.device,
        processes: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self.answers = Capture(model, (), attention=False)
        self.train = train
        self.heads = heads
        self.encoder = encoder
        self.device = device
        self.processes = processes
        self.lengths = {domain: encoded.lengths() for domain, encoded in train.encoded.items()}
        self.side_by_side = side_by_side(model, self.lengths, device)
        self.columns = Columns(heads, heads.domains, device)
        weights = class_weights(train, heads, settings, torch.device("cpu"))
        self.class_weights = {d: None if w is None else w.numpy().astype(np.float64) for d, w in weights.items()}

    def on_step_start(self, number: int, steps: int, batch: Any, optimizer: Optimizer) -> None:
        """Nothing comes before a step of a teacher."""

    def rehearse(self, batch: Any) -> None:
        """Nothing comes before a step of a teacher."""

    def collate(self, rows: Rows) -> list[TeachBatch]:
        """Get one step's rows ready: this process's part of them, side by side or in pieces of similar length."""
        picks = picks_of(rows, self.processes)
        if self.side_by_side is not None:
            return [self._load(rows, *lay_out(picks, self.lengths))]
        return [self._load(rows, piece) for piece in pieces_of(picks, self.lengths, self.device)]

    def _load(self, rows: Rows, picks: Sequence[Pick], layout: Layout | None = None) -> TeachBatch:
        own = [(self.train.encoded[domain], row) for domain, row in picks]
        if layout is not None and self.side_by_side is not None:
            batch = self.encoder.side_by_side(own, layout, self.side_by_side)
        else:
            batch = self.encoder.collate_rows(own, self.device)
        numbers = {domain: n for n, domain in enumerate(self.heads.domains)}
        sums = {d: self._weights(d, chosen).sum() for d, chosen in rows.items()}
        weights = np.array([self._weights(d, [row])[0] / sums[d] for d, row in picks], dtype=np.float32)
        of = np.array([numbers[d] for d, _ in picks])
        labels = np.array([self.train.labels[d][row] for d, row in picks])
        of_t, labels_t, weights_t = (to_device(torch.from_numpy(a), self.device) for a in (of, labels, weights))
        return TeachBatch(batch, of_t, labels_t, weights_t)

    def loss(self, batch: Sequence[TeachBatch]) -> LossOutput:
        """Run one step's rows through the model."""
        return LossOutput(self.processes.all_reduce(reduce(operator.add, map(self._loss, batch))))

    def _loss(self, batch: TeachBatch) -> Tensor:
        logits = self.columns.take(self.answers(batch.batch).logits.float(), batch.domains)
        return (F.cross_entropy(logits, batch.labels, reduction="none") * batch.weights).sum()

    def state_dict(self) -> dict[str, Tensor]:
        """Return nothing: all state is in the model."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Nothing to go back to."""

    def _weights(self, domain: str, rows: Sequence[int]) -> np.ndarray:
        """Return each row's weight by its label."""
        table = self.class_weights[domain]
        return np.ones(len(rows)) if table is None else table[self.train.labels[domain][list(rows)]]
