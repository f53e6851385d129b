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

from hrkd_cli.choices import ClassWeights
from hrkd_cli.data.batching import Sampler
from hrkd_cli.data.dataset import Dataset
from hrkd_cli.data.opening import load_for_training
from hrkd_cli.events import OnEvent, StageDone, ignore
from hrkd_cli.layout import DATASET_OUT, TEACHER_OUT
from hrkd_cli.models.capture import Capture
from hrkd_cli.models.encoding import Batch, Encoder, make_encoder, to_device
from hrkd_cli.models.folder import model_fingerprint
from hrkd_cli.models.loading import load_classifier, load_tokenizer, resolve
from hrkd_cli.outputs import check_apart
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.settings import TeachSettings
from hrkd_cli.training.auto_batch_size import batch_size_of
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.loop import LossOutput, Objective, Rows
from hrkd_cli.training.rows import LabelGather, Pick, picks_of, pieces_of
from hrkd_cli.training.scoring import EncodedSplit, check_length, check_trainable, encode_split
from hrkd_cli.training.stage_folder import (
    TrainResult,
    check_stage_output,
    finished_before,
    run_folder,
    run_key,
    write_model_folder,
)
from hrkd_cli.training.trainer import Trainer
from hrkd_cli.version import __version__


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
    check_stage_output(out, "teach", force=force, resume=resume)
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
    if resume and (done := finished_before(out, "teach", key, context)):
        return done
    torch.manual_seed(settings.seed)
    heads = DomainHeads.build(dataset.labels)
    tokenizer = load_tokenizer(path)
    model = load_classifier(path, heads)
    check_length(settings.max_length, model, tokenizer, name)
    encoder = make_encoder(model, tokenizer, settings.max_length, settings.truncate)
    model.to(context.device)
    train, dev = (encode_split(dataset, split, encoder) for split in ("train", "dev"))
    objective = FineTuningObjective(model, train, heads, encoder, settings.class_weights, context)
    lengths = objective.lengths
    with run_folder(out, key=key, options=settings.decisive(), resume=resume, context=context) as run:
        size = batch_size_of(settings, objective, [model], lengths, checkpoint=run, context=context)
        trainer = Trainer(
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
            heads=heads,
            encoder=encoder,
            dev=dev,
            best_by_domain=True,
            settings=settings,
            checkpoint=run,
            context=context,
        )
        trainer.run()
        what = f"A multi-domain text classifier, `{name}` fine-tuned with hrkd-cli {__version__}."
        models = {"start": {"name": name, "fingerprint": fingerprint}}
        result = write_model_folder(trainer, dataset, what=what, models=models, sources=sources)
    context.on_event(StageDone("teach", str(out), result.steps, result.seconds))
    return result


def teach_key(fingerprint: str, dataset: Dataset, settings: TeachSettings) -> str:
    """Return a hash of everything that a teacher's weights depend on."""
    return run_key(stage="teach", model=fingerprint, data=dataset.fingerprint, options=settings.decisive())


@dataclass(frozen=True, slots=True)
class TeachBatch:
    """R rows of a step on the device."""

    batch: Batch
    domains: Tensor  # (R,), each row's domain by number
    labels: Tensor  # (R,), among those of its domain
    weights: Tensor  # (R,), adding up to 1 in each domain of the whole step


@dataclass(eq=False)
class FineTuningObjective(Objective):
    """Cross-entropy of every domain's rows, summed over domains, for a classifier and its outputs and encoder."""

    model: Any
    train: EncodedSplit
    heads: DomainHeads
    encoder: Encoder
    class_weights: ClassWeights
    context: TrainContext

    def __post_init__(self) -> None:
        self.capture = Capture(self.model, (), attention=False)
        self.lengths = {domain: encoded.lengths() for domain, encoded in self.train.encoded.items()}
        self.own_logits = LabelGather(self.heads, self.heads.domains, self.context.device)
        # The weight of each row by its label.
        self.weights = {domain: np.ones(len(labels)) for domain, labels in self.train.labels.items()}
        table = self.train.class_weights(self.heads, self.class_weights)
        if table is not None:
            of_domain = zip(self.heads.domains, table.double().numpy(), strict=True)
            self.weights = {domain: weights[self.train.labels[domain]] for domain, weights in of_domain}

    def collate(self, rows: Rows) -> list[TeachBatch]:
        """Return this process's part of a step, in pieces of similar length."""
        sums = {domain: self.weights[domain][list(chosen)].sum() for domain, chosen in rows.items()}
        picks = picks_of(rows, self.context.processes)
        return [self._collate(piece, sums) for piece in pieces_of(picks, self.lengths, self.context.device)]

    def _collate(self, picks: Sequence[Pick], sums: Mapping[str, float]) -> TeachBatch:
        device = self.context.device
        batch = self.encoder.collate_rows([(self.train.encoded[d], row) for d, row in picks], device)
        domains = torch.tensor([self.heads.domains.index(d) for d, _ in picks])
        labels = torch.tensor([int(self.train.labels[d][row]) for d, row in picks])
        weights = torch.tensor([self.weights[d][row] / sums[d] for d, row in picks], dtype=torch.float32)
        return TeachBatch(batch, *(to_device(tensor, device) for tensor in (domains, labels, weights)))

    def loss(self, batch: Sequence[TeachBatch]) -> LossOutput:
        """Run one step's rows through the model."""
        return LossOutput(self.context.processes.all_reduce(reduce(operator.add, map(self._loss, batch))))

    def _loss(self, batch: TeachBatch) -> Tensor:
        logits = self.own_logits.take(self.capture(batch.batch).logits.float(), batch.domains)
        return (F.cross_entropy(logits, batch.labels, reduction="none") * batch.weights).sum()
