"""Scores of models in memory on the dev split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from hrkd_cli.evaluation.metrics import DomainScores, score_domain
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.tokenized_split import TokenizedSplit

SCORING_BATCH_SIZE = 32


def score_split(
    models: Any | Mapping[str, Any], split: TokenizedSplit, heads: DomainHeads, context: TrainContext
) -> dict[str, DomainScores]:
    """Score one model, or one model per domain, in the precision of the run; train or eval mode is restored."""
    scores, processes = {}, context.processes
    for domain, examples in split.examples.items():
        model = models[domain] if isinstance(models, Mapping) else models
        longest_first = np.argsort(-split.lengths[domain], kind="stable")
        # Each process predicts its own batches and leaves 0 elsewhere, so that the sum has all predictions.
        predicted = torch.zeros(len(examples), dtype=torch.int64, device=context.device)
        was_training = model.training
        model.eval()
        with torch.no_grad(), context.precision.autocast():
            for start in processes.shard(range(0, len(longest_first), SCORING_BATCH_SIZE)):
                rows = longest_first[start : start + SCORING_BATCH_SIZE]
                batch = split.tokenizer.collate([examples[row] for row in rows], context.device)
                logits = model(**batch.inputs).logits[:, list(heads.columns[domain])]
                predicted[torch.from_numpy(rows).to(context.device)] = logits.argmax(dim=-1)
        model.train(was_training)
        predicted_labels = processes.all_reduce(predicted).cpu().numpy()
        names = np.array(heads.labels[domain])
        scores[domain] = score_domain(names[split.labels[domain]], names[predicted_labels], heads.labels[domain])
    return scores
