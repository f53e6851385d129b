"""Whether a dataset can be trained on and a model takes its texts; scores of a model in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from hrkd_cli.data.dataset import Dataset
from hrkd_cli.errors import DataError, UsageError
from hrkd_cli.evaluation.metrics import DomainScores, score_domain
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.predict.model_spec import position_limit
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.tokenized_split import TokenizedSplit

SCORING_BATCH = 32


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


def score(
    models: Any | Mapping[str, Any], split: TokenizedSplit, heads: DomainHeads, context: TrainContext
) -> dict[str, DomainScores]:
    """Score one model, or one model per domain, on a split, in the precision of the run; its mode stays as it is."""
    scores, processes = {}, context.processes
    for domain, examples in split.examples.items():
        model = models[domain] if isinstance(models, Mapping) else models
        order = np.argsort(-split.lengths[domain], kind="stable")
        # Each process fills in its own rows, the others' stay 0: the sum is the whole.
        predicted = torch.zeros(len(examples), dtype=torch.int64, device=context.device)
        training = model.training
        model.eval()
        with torch.no_grad(), context.precision.autocast():
            for start in processes.shard(range(0, len(order), SCORING_BATCH)):
                indices = order[start : start + SCORING_BATCH]
                batch = split.tokenizer.collate([examples[row] for row in indices], context.device)
                own = model(**batch.inputs).logits[:, list(heads.columns[domain])]
                predicted[torch.from_numpy(indices).to(context.device)] = own.argmax(dim=-1)
        model.train(training)
        found = processes.all_reduce(predicted).cpu().numpy()
        names = np.array(heads.labels[domain])
        scores[domain] = score_domain(names[split.labels[domain]], names[found], heads.labels[domain])
    return scores
