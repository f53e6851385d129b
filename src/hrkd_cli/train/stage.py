"""What teach and distill do alike around a run: checks before it, a finished folder after it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hrkd_cli.config import ClassWeights, TrainingSettings
from hrkd_cli.data.batching import Sampler
from hrkd_cli.data.dataset import Dataset
from hrkd_cli.errors import DataError, UsageError
from hrkd_cli.layout import MODEL
from hrkd_cli.model.card import model_card
from hrkd_cli.model.folder import save_model, write_json
from hrkd_cli.model.loading import max_tokens
from hrkd_cli.runtime.heads import DomainHeads
from hrkd_cli.train.result import TrainResult, run_record
from hrkd_cli.train.run import Trained
from hrkd_cli.train.scoring import SplitLabels, scores_to_json


@dataclass(frozen=True, slots=True)
class Finished:
    """What a stage's folder is made of, once its model is trained.

    Attributes:
        stage: ``"teach"`` or ``"distill"``.
        model: the classifier, with the kept weights.
        tokenizer: its tokenizer.
        heads: its outputs.
        dataset: the training data.
        settings: resolved settings.
        what: a sentence on how it was made, for the model card.
        start: name of the model it was made from.
        models: what the run started from, with fingerprints, for the record.
        key: see run_key.
        sources: where each option came from.
    """

    stage: str
    model: Any
    tokenizer: Any
    heads: DomainHeads
    dataset: Dataset
    settings: TrainingSettings
    what: str
    start: str
    models: Mapping[str, Any]
    key: str
    sources: Mapping[str, str]

    def save(self, folder: Path) -> None:
        """Write config, weights and tokenizer."""
        length, pair = self.settings.max_length, self.dataset.pair
        save_model(self.model, self.tokenizer, folder, self.heads, max_length=length, pair=pair)

    def write(self, work: Path, out: Path, trained: Trained) -> TrainResult:
        """Write the whole folder (model, card, record) and drop the weights kept while training."""
        trained.load_best(self.model)
        self.save(work)
        speed, best = trained.examples_per_second, trained.best
        result = TrainResult(
            self.stage, out, trained.steps, trained.seconds, speed, best.step, scores_to_json(best.scores)
        )
        card = model_card(
            title=f"{out.name}: from {Path(self.start).name}",
            what=self.what,
            heads=self.heads,
            dev=result.dev,
            max_length=self.settings.max_length,
            parameters=sum(p.numel() for p in self.model.parameters()),
        )
        (work / MODEL.readme).write_text(card, encoding="utf-8")
        record = run_record(
            result,
            options=self.settings.to_json(),
            sources=self.sources,
            dataset=self.dataset,
            models=self.models,
            key=self.key,
        )
        write_json(work / MODEL.run, record)
        for file in work.glob("weights-*.safetensors"):
            file.unlink()
        return result


def class_weights(
    train: SplitLabels, heads: DomainHeads, settings: TrainingSettings, device: torch.device
) -> dict[str, torch.Tensor | None]:
    """Return each domain's (C,) class weights, rows / (C x rows of the class); None where all count the same."""
    if settings.class_weights is ClassWeights.NONE:
        return dict.fromkeys(heads.domains)
    weights: dict[str, torch.Tensor | None] = {}
    for domain, names in heads.labels.items():
        counts = np.bincount(train.labels[domain], minlength=len(names)).clip(min=1)
        balanced = counts.sum() / (len(names) * counts)
        weights[domain] = torch.tensor(balanced, dtype=torch.float32, device=device)
    return weights


def make_sampler(dataset: Dataset, settings: TrainingSettings) -> Sampler:
    """Make the sampler of a dataset's train rows."""
    rows = {domain: len(dataset.split(domain, "train")) for domain in dataset.domains}
    return Sampler(rows, batch_size=settings.batch_size, sampling=settings.sampling, seed=settings.seed)


def check_trainable(dataset: Dataset) -> None:
    """Make sure that every domain has rows to learn from and rows to be scored on.

    Raises:
        DataError: a domain has none, or has a single label.
    """
    for domain, labels in dataset.labels.items():
        for split in ("train", "dev"):
            if not len(dataset.split(domain, split)):
                raise DataError(f"domain {domain!r} has no {split} rows; add some, or prepare without it (--domains)")
        if len(labels) < 2:
            raise DataError(f"domain {domain!r} has one label only ({labels[0]}); prepare without it (--domains)")


def check_length(max_length: int, model: Any, tokenizer: Any, name: str) -> None:
    """Make sure that the model can take that many tokens.

    Raises:
        UsageError: it cannot.
    """
    limit = max_tokens(model.config, tokenizer)
    if max_length > limit:
        raise UsageError(f"--max-length {max_length}: {name} takes at most {limit} tokens")


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's and torch's global generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
