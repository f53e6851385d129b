"""Logits and scores of models in memory on the dev split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from hrkd_cli.evaluation.metrics import DomainScores, score_domain
from hrkd_cli.events import Progress
from hrkd_cli.predict.heads import DomainHeads, FloatArray, predict_label_indices
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.tokenized_split import TokenizedSplit

SCORING_BATCH_SIZE = 32


def score_split(
    models: Any | Mapping[str, Any], split: TokenizedSplit, heads: DomainHeads, context: TrainContext
) -> dict[str, DomainScores]:
    """Score one model, or one model per domain, in the precision of the run; train or eval mode is restored."""
    return score_logits(predict_split(models, split, context), split, heads)


def predict_split(
    models: Any | Mapping[str, Any], split: TokenizedSplit, context: TrainContext, *, width: int | None = None
) -> dict[str, FloatArray]:
    """Return all logits of the rows of each domain, (n, outputs), on every process; see ``score_split``.

    ``width`` is the number of outputs if it is not that in the model's config.
    """
    all_logits, processes = {}, context.processes
    done, total = 0, sum(map(len, split.examples.values()))
    for domain, examples in split.examples.items():
        model = models[domain] if isinstance(models, Mapping) else models
        longest_first = np.argsort(-split.lengths[domain], kind="stable")
        # Each process predicts its own batches and leaves 0 elsewhere, so that the sum has all predictions.
        logits = torch.zeros(len(examples), width or model.config.num_labels, device=context.device)
        was_training = model.training
        model.eval()
        with torch.no_grad(), context.precision.autocast():
            for start in processes.shard(range(0, len(longest_first), SCORING_BATCH_SIZE)):
                context.on_event(Progress("scoring dev", done + start, total))
                rows = longest_first[start : start + SCORING_BATCH_SIZE]
                batch = split.tokenizer.collate([examples[row] for row in rows], context.device)
                logits[torch.from_numpy(rows).to(context.device)] = model(**batch.inputs).logits.float()
        model.train(was_training)
        done += len(examples)
        all_logits[domain] = processes.all_reduce(logits).cpu().numpy()
    context.on_event(Progress("scoring dev", total, total))
    return all_logits


def score_logits(
    logits: Mapping[str, FloatArray], split: TokenizedSplit, heads: DomainHeads
) -> dict[str, DomainScores]:
    """Score the most probable label of each row in its domain; ``logits`` are (n, outputs) by domain."""
    scores = {}
    for domain, rows in logits.items():
        names, predicted = np.array(heads.labels[domain]), predict_label_indices(rows, heads, domain)
        scores[domain] = score_domain(names[split.labels[domain]], names[predicted], heads.labels[domain])
    return scores
