"""Checks of a dataset and of the maximum length before training."""

from __future__ import annotations

from typing import Any

from hrkd_cli.data.dataset import Dataset
from hrkd_cli.errors import DataError, UsageError
from hrkd_cli.predict.model_spec import position_limit


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
    return int(min(tokenizer.model_max_length, position_limit(model.config.to_dict()) or tokenizer.model_max_length))
