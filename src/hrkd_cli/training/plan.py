"""Before training: options that are not given are chosen from the data and the model, and both are checked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from hrkd_cli.choices import Split
from hrkd_cli.data.dataset import Dataset, sample_rows
from hrkd_cli.data.sampler import count_batches
from hrkd_cli.errors import DataError, UsageError
from hrkd_cli.events import Note, OnEvent
from hrkd_cli.formatting import join_names, percent, plural
from hrkd_cli.models.mean_pooling import encoder_layers
from hrkd_cli.predict.model_spec import position_limit
from hrkd_cli.settings import AUTO_BATCH, TrainingSettings

BERT_BASE_SIZE = 12 * 768
"""Layers times hidden size of BERT-base."""
BERT_BASE_RATE = 5e-5
"""The paper's learning rate, chosen for BERT-base."""
MAX_RATE = 5e-4
ASSUMED_BATCH_SIZE = 8
"""Rows per domain and step if the batch size is not known yet (``--batch-size auto``)."""
PATIENCE = 10
"""Dev evaluations without improvement after which a run stops if its epochs are not given."""

FEW_ROWS = 1000
"""Train rows of all domains up to which there are few."""

LENGTHS = (128, 256)
"""Smallest and largest length that is chosen."""
COVERED = 95
"""Percentage of each domain's texts that the chosen length covers."""
MEASURED_TEXTS = 1000
"""Texts per domain whose length and unknown tokens are measured."""
NO_LIMIT = 10**9
"""From here on, a tokenizer's limit means that it has none (transformers writes 10^30)."""
DEFAULT_LIMIT = 512
"""Limit of a model that has none."""
UNKNOWN = 0.05
"""Fraction of a domain's texts with unknown tokens above which a warning says so."""


@dataclass(frozen=True, slots=True)
class Budget:
    """The least that a stage trains for: passes over the data and optimizer steps; and its share of the usual rate."""

    epochs: int
    steps: int
    rate_share: float = 1.0


TEACH = Budget(epochs=3, steps=300)
TEACH_COSINE = Budget(epochs=3, steps=300, rate_share=0.25)
DISTILL = Budget(epochs=10, steps=600)


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """Values of the options that a run can choose itself.

    Attributes:
        epochs: passes over the data.
        learning_rate: peak learning rate of AdamW.
        max_length: tokens per text.
        patience: dev evaluations without improvement after which the run stops; None for never.
    """

    epochs: int
    learning_rate: float
    max_length: int
    patience: int | None

    @classmethod
    def make(
        cls,
        settings: TrainingSettings,
        budget: Budget,
        dataset: Dataset,
        config: Any,
        tokenizer: Any,
        limit: int,
        on_event: OnEvent,
    ) -> TrainingPlan:
        """Choose what the settings leave open, and report the choices in one note.

        ``config`` and ``tokenizer`` are those of the model to train; ``limit`` is the most tokens per text that the
        models of the run can take.
        """
        epochs, rate, length, patience = settings.epochs, settings.learning_rate, settings.max_length, settings.patience
        reasons: list[str] = []
        if epochs is None:
            epochs = choose_epochs(settings, budget, dataset)
            steps = f" ({budget.steps} steps)" if epochs > budget.epochs else ""
            reasons.append(f"at most {plural(epochs, 'epoch')}{steps}")
            patience = patience or PATIENCE
        if rate is None:
            rate = choose_learning_rate(config, budget)
            shape = f"{plural(encoder_layers(config), 'layer')} of width {config.hidden_size}"
            reasons.append(f"learning rate {rate:g} ({shape})")
        if length is None:
            length = choose_max_length(dataset, tokenizer, limit)
            reasons.append(f"at most {length} tokens per text")
        if reasons:
            on_event(Note(f"plan: {', '.join(reasons)}"))
        if shares := find_unknown_characters(dataset, tokenizer):
            texts = join_names([f"{percent(share)}% of the texts of {domain}" for domain, share in shares.items()])
            on_event(Note(f"the tokenizer lacks characters: {tokenizer.unk_token} in {texts}", warning=True))
        return cls(epochs, rate, length, patience)


def choose_epochs(settings: TrainingSettings, budget: Budget, dataset: Dataset) -> int:
    """Return the epochs of the budget, or more if that is fewer steps than the budget's."""
    batch_size = ASSUMED_BATCH_SIZE if settings.batch_size == AUTO_BATCH else int(settings.batch_size)
    sizes = [len(dataset.split(domain, Split.TRAIN)) for domain in dataset.domains]
    batches = count_batches([size for size in sizes if size], batch_size)
    return max(budget.epochs, math.ceil(budget.steps * settings.accumulate / batches))


def choose_learning_rate(config: Any, budget: Budget) -> float:
    """Return the learning rate for a model of this size, with one significant digit.

    It is a share of the paper's rate for BERT-base, in inverse proportion to layers times width.
    """
    rate = min(BERT_BASE_RATE * BERT_BASE_SIZE / (encoder_layers(config) * config.hidden_size), MAX_RATE)
    return float(f"{rate * budget.rate_share:.0e}")


def choose_max_length(dataset: Dataset, tokenizer: Any, limit: int) -> int:
    """Return the tokens that cover 95 % of every domain's texts: a multiple of 8 within ``LENGTHS``.

    Padding follows the longest text of a batch, so a larger limit does not make short texts slower.
    """
    longest = 0.0
    for encodings in _encode_sample(dataset, tokenizer).values():
        lengths = [len(encoding) for encoding in encodings]
        longest = max(longest, float(np.percentile(lengths, COVERED, method="inverted_cdf")))
    smallest, largest = LENGTHS
    return min(max(smallest, math.ceil(longest / 8) * 8), largest, limit)


def find_unknown_characters(dataset: Dataset, tokenizer: Any) -> dict[str, float]:
    """Return the fraction of texts with unknown tokens, by domain; only of domains where it is above ``UNKNOWN``."""
    unknown, shares = tokenizer.unk_token_id, {}
    for domain, encodings in _encode_sample(dataset, tokenizer).items():
        share = sum(unknown in encoding.ids for encoding in encodings) / len(encodings)
        if unknown is not None and share > UNKNOWN:
            shares[domain] = share
    return shares


def _encode_sample(dataset: Dataset, tokenizer: Any) -> dict[str, list[Any]]:
    """Tokenize up to about ``MEASURED_TEXTS`` random train texts, or pairs, of every domain, without truncation."""
    encodings = {}
    for domain in dataset.domains:
        rows = dataset.split(domain, Split.TRAIN)
        sample = sample_rows(len(rows), MEASURED_TEXTS / max(len(rows), 1))
        texts: list[Any] = [rows.texts[row] for row in sample]
        if rows.pairs is not None:
            texts = list(zip(texts, (rows.pairs[row] for row in sample), strict=True))
        encodings[domain] = tokenizer.backend_tokenizer.encode_batch(texts)
    return encodings


def check_trainable(dataset: Dataset) -> None:
    """Check that every domain has train rows, dev rows and at least two labels.

    Raises:
        DataError: a domain does not.
    """
    for domain, labels in dataset.labels.items():
        for split in ("train", "dev"):
            if not len(dataset.split(domain, split)):
                raise DataError(f"domain {domain!r} has no {split} rows; add some, or prepare without it (--domains)")
        if len(labels) < 2:
            raise DataError(f"domain {domain!r} has one label only ({labels[0]}); prepare without it (--domains)")


def check_length(max_length: int, model: Any, tokenizer: Any, name: str) -> None:
    """Raise UsageError if the model or its tokenizer cannot take that many tokens."""
    limit = token_limit(model, tokenizer)
    if max_length > limit:
        raise UsageError(f"--max-length {max_length}: {name} takes at most {limit} tokens")


def token_limit(model: Any, tokenizer: Any) -> int:
    """Return the number of tokens that a model and its tokenizer can take."""
    limit = min(tokenizer.model_max_length, position_limit(model.config.to_dict()) or tokenizer.model_max_length)
    return int(limit) if limit < NO_LIMIT else DEFAULT_LIMIT
