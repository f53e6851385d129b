"""SetFit: the encoder fine-tuned on pairs of texts with equal or different labels, and its logistic regression.

One model has the labels of all domains; a domain's prediction is the best of its own labels. It reads one text per row,
so the texts of a pair are joined.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
from setfit import SetFitModel, Trainer, TrainingArguments

from peer import Data, Options, Predict, Text, joined, run_method

SETTINGS = {"batch_size": 16, "num_epochs": 1, "num_iterations": 20, "max_length": 128}
"""Twice ``num_iterations`` pairs are made per row."""
DOMAINS = "domains.json"


def train(data: Data, folder: Path, options: Options) -> None:
    """Fine-tune the encoder, and train the classifier."""
    rows = data.rows("train")
    labels = sorted({label for own in data.labels.values() for label in own})
    texts = [text for own in rows.values() for text in joined(own.texts)]
    indices = [labels.index(label) for own in rows.values() for label in own.labels]
    model = SetFitModel.from_pretrained(str(options.encoder))
    model.model_body.float()  # a folder of half-precision weights is loaded as such, and slow on a CPU
    model.model_body.max_seq_length = SETTINGS["max_length"]
    work = folder.with_name(f"{folder.name}-weights")
    arguments = TrainingArguments(
        output_dir=str(work), seed=options.seed, report_to="none", save_strategy="no", **SETTINGS
    )
    Trainer(model, arguments, datasets.Dataset.from_dict({"text": texts, "label": indices})).train()
    model.save_pretrained(str(folder))
    columns = {domain: [labels.index(label) for label in own] for domain, own in data.labels.items()}
    (folder / DOMAINS).write_text(json.dumps({"labels": labels, "columns": columns}), encoding="utf-8")


def load(folder: Path) -> Predict:
    """Open the stored model."""
    model = SetFitModel.from_pretrained(str(folder))
    names = json.loads((folder / DOMAINS).read_text(encoding="utf-8"))

    def predict(texts: Sequence[Text], domain: str) -> Sequence[str]:
        columns = names["columns"][domain]
        scores = np.asarray(model.predict_proba(joined(texts), as_numpy=True))[:, columns]
        return [names["labels"][columns[best]] for best in scores.argmax(axis=1)]

    return predict


if __name__ == "__main__":
    run_method(train, load, weights=["model.safetensors", "model_head.pkl"])
