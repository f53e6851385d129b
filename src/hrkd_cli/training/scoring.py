"""Splits as token ids and labels, and scores of a model in memory on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hrkd_cli.choices import ClassWeights
from hrkd_cli.data.dataset import Dataset
from hrkd_cli.errors import DataError, UsageError
from hrkd_cli.evaluation.metrics import DomainScores, score_domain
from hrkd_cli.models.encoding import Encoded, Encoder
from hrkd_cli.models.precision import Arithmetic
from hrkd_cli.predict.folder import position_limit
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.training.process_group import SINGLE_PROCESS, ProcessGroup

SCORING_BATCH = 32


@dataclass(frozen=True, slots=True)
class EncodedSplit:
    """A split as token ids, with its labels, by domain."""

    encoded: dict[str, Encoded]
    labels: dict[str, np.ndarray]  # the index of each row's label among the domain's labels

    @property
    def rows(self) -> int:
        """Rows of all domains."""
        return sum(len(encoded) for encoded in self.encoded.values())

    def class_weights(self, heads: DomainHeads, choice: ClassWeights) -> torch.Tensor | None:
        """Return (D, C) class weights, rows / (classes x rows of the class); None where all count the same."""
        if choice is ClassWeights.NONE:
            return None
        weights = []
        for domain, names in heads.labels.items():
            counts = np.bincount(self.labels[domain], minlength=len(names)).clip(min=1)
            weights.append(torch.tensor(counts.sum() / (len(names) * counts), dtype=torch.float32))
        return torch.nn.utils.rnn.pad_sequence(weights, batch_first=True, padding_value=1.0)


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
    """Raise a UsageError where the model cannot take that many tokens."""
    limit = min(tokenizer.model_max_length, position_limit(model.config.to_dict()) or tokenizer.model_max_length)
    if max_length > limit:
        raise UsageError(f"--max-length {max_length}: {name} takes at most {limit} tokens")


def encode_split(dataset: Dataset, split: str, encoder: Encoder) -> EncodedSplit:
    """Encode one split of every domain that has it."""
    encoded, labels = {}, {}
    for domain, names in dataset.labels.items():
        rows = dataset.split(domain, split)
        if len(rows):
            encoded[domain] = encoder.encode(rows)
            labels[domain] = np.array([names.index(label) for label in rows.labels], dtype=np.int64)
    return EncodedSplit(encoded, labels)


def score(
    models: Any | Mapping[str, Any],
    split: EncodedSplit,
    heads: DomainHeads,
    encoder: Encoder,
    arithmetic: Arithmetic,
    processes: ProcessGroup = SINGLE_PROCESS,
) -> dict[str, DomainScores]:
    """Score one model, or one model per domain, on a split, in the precision of the run; its mode stays as it is."""
    scores, device = {}, arithmetic.device
    for domain, encoded in split.encoded.items():
        model = models[domain] if isinstance(models, Mapping) else models
        order = np.argsort(-encoded.lengths(), kind="stable")
        # Each process fills in its own rows, the others' stay 0: the sum is the whole.
        predicted = torch.zeros(len(encoded), dtype=torch.int64, device=device)
        training = model.training
        model.eval()
        with torch.no_grad(), arithmetic.forward():
            for start in processes.shard(range(0, len(order), SCORING_BATCH)):
                indices = order[start : start + SCORING_BATCH]
                logits = model(**encoder.collate(encoded, indices.tolist(), device).inputs).logits
                own = logits[:, list(heads.columns[domain])]
                predicted[torch.from_numpy(indices).to(device)] = own.argmax(dim=-1)
        model.train(training)
        found = processes.all_reduce(predicted).cpu().numpy()
        names = np.array(heads.labels[domain])
        scores[domain] = score_domain(names[split.labels[domain]], names[found], heads.labels[domain])
    return scores
