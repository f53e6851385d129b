"""Teaching: one encoder fine-tuned on all domains, one head per domain (the paper's section 4.1)."""

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
from hrkd_cli.data.batching import Sampler
from hrkd_cli.data.dataset import Dataset
from hrkd_cli.data.opening import load_for_training
from hrkd_cli.events import Note, OnEvent, StageDone, ignore
from hrkd_cli.layout import DATASET_OUT, TEACHER_OUT
from hrkd_cli.models.capture import Capture
from hrkd_cli.models.encoding import Batch, Encoder, make_encoder, to_device
from hrkd_cli.models.folder import is_stage_folder, model_fingerprint
from hrkd_cli.models.loading import load_classifier, load_tokenizer, resolve
from hrkd_cli.outputs import check_apart
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.settings import TeachSettings, TrainingSettings
from hrkd_cli.training.auto_batch_size import batch_size_of
from hrkd_cli.training.columns import Columns
from hrkd_cli.training.context import TrainContext, seed_everything
from hrkd_cli.training.loop import LossOutput, Rows
from hrkd_cli.training.optimizer import Optimizer
from hrkd_cli.training.process_group import SINGLE_PROCESS, ProcessGroup
from hrkd_cli.training.result import TrainResult, finished_before, run_key, write_model_folder
from hrkd_cli.training.rows import Pick, picks_of, pieces_of
from hrkd_cli.training.run_folder import check_stage_output, run_folder
from hrkd_cli.training.scoring import EncodedSplit, check_length, check_trainable, encode_split, score
from hrkd_cli.training.trainer import Trainer


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
    context = TrainContext.start(settings, on_event)
    dataset = context.processes.main_first(lambda: load_for_training(data, force=force, on_event=context.on_event))
    return teach_on(path, dataset, settings, out=out, name=str(model), resume=resume, sources=sources, context=context)


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
    context: TrainContext | None = None,
) -> TrainResult:
    """Fine-tune the encoder in ``path`` on a dataset in memory; see teach."""
    check_trainable(dataset)
    context = context or TrainContext.start(settings, on_event)
    fingerprint = model_fingerprint(path)
    key = teach_key(fingerprint, dataset, settings)
    if resume and (done := finished_before(out, key=key, kind="teacher", is_ours=is_teacher)):
        context.on_event(Note(f"{out} is finished already"))
        return done
    seed_everything(settings.seed)
    heads = DomainHeads.build(dataset.labels)
    tokenizer = load_tokenizer(path)
    model = load_classifier(path, heads)
    check_length(settings.max_length, model, tokenizer, name)
    encoder = make_encoder(model, tokenizer, settings.max_length, settings.truncate)
    model.to(context.device)
    train, dev = (encode_split(dataset, split, encoder) for split in ("train", "dev"))
    with run_folder(out, key=key, options=settings.decisive(), resume=resume, context=context) as run:
        objective = FineTuningObjective(model, train, heads, encoder, settings, context.device, context.processes)
        lengths = objective.lengths
        size = batch_size_of(settings, objective, [model], lengths, checkpoint=run.checkpoint, context=context)
        output = Trainer(
            stage="teach",
            model=model,
            objective=objective,
            make_sampler=lambda: Sampler(
                {domain: len(own) for domain, own in lengths.items()},
                batch_size=size,
                sampling=settings.sampling,
                seed=settings.seed,
                lengths={domain: own.tolist() for domain, own in lengths.items()},
            ),
            score_dev=lambda: score(model, dev, heads, encoder, context.precision, context.processes),
            dev_rows=dev.rows,
            best_by_domain=True,
            settings=settings,
            run=run,
            context=context,
        ).run(heads.domains)
        result = write_model_folder(
            run,
            output,
            context,
            stage="teach",
            model=model,
            tokenizer=tokenizer,
            heads=heads,
            dataset=dataset,
            settings=settings,
            what=f"A multi-domain text classifier, `{name}` fine-tuned with hrkd-cli {__version__}.",
            start=name,
            models={"start": {"name": name, "fingerprint": fingerprint}},
            key=key,
            sources=sources,
        )
    context.on_event(StageDone("teach", str(out), result.steps, result.seconds))
    return result


def teach_key(fingerprint: str, dataset: Dataset, settings: TeachSettings) -> str:
    """Return what a teacher depends on, so that an unchanged one can be used again.

    ``fingerprint`` is that of the encoder that it starts from.
    """
    return run_key(stage="teach", model=fingerprint, data=dataset.fingerprint, options=settings.decisive())


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
        train: EncodedSplit,
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
        self.columns = Columns(heads, heads.domains, device)
        weights = train.class_weights(heads, settings.class_weights)
        self.class_weights = {d: None if w is None else w.numpy().astype(np.float64) for d, w in weights.items()}

    def on_step_start(self, number: int, steps: int, batch: Any, optimizer: Optimizer) -> None:
        """Nothing comes before a step of a teacher."""

    def collate(self, rows: Rows) -> list[TeachBatch]:
        """Get one step's rows ready: this process's part of them, in pieces of similar length."""
        picks = picks_of(rows, self.processes)
        return [self._load(rows, piece) for piece in pieces_of(picks, self.lengths, self.device)]

    def _load(self, rows: Rows, picks: Sequence[Pick]) -> TeachBatch:
        own = [(self.train.encoded[domain], row) for domain, row in picks]
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
