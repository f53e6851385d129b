"""Frozen encoder: mean of the last hidden states, standardized, and logistic regression per set of labels.

The settings are those of ``hrkd eval --floor``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import AutoModel, AutoTokenizer

from peer import Data, Options, Predict, Text, run_method

REGULARIZATION = 16.0  # C times the number of features
MAX_LENGTH = 256
BATCH_SIZE = 32


class Encoder:
    """A pretrained encoder that is not trained."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def embed(self, texts: Sequence[Text]) -> Any:
        """Return the means of the last hidden states, (texts, width)."""
        by_length = sorted(range(len(texts)), key=lambda row: len("".join(texts[row])))
        means = np.zeros((len(texts), self.model.config.hidden_size), np.float32)
        for start in range(0, len(texts), BATCH_SIZE):
            batch = by_length[start : start + BATCH_SIZE]
            inputs = self.tokenizer(
                [texts[row] for row in batch], padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
            )
            with torch.inference_mode():
                hidden = self.model(**inputs).last_hidden_state
            mask = inputs["attention_mask"][..., None]
            means[batch] = ((hidden * mask).sum(1) / mask.sum(1)).numpy()
        return means


def train(data: Data, folder: Path, options: Options) -> None:
    """Store the encoder, and train one classifier, or one per domain."""
    encoder = Encoder(options.encoder)
    encoder.model.save_pretrained(folder)
    encoder.tokenizer.save_pretrained(folder)
    for name, _, rows in data.groups():
        inputs = encoder.embed(rows.texts)
        classifier = LogisticRegression(C=REGULARIZATION / inputs.shape[1], max_iter=1000)
        joblib.dump(make_pipeline(StandardScaler(), classifier).fit(inputs, rows.labels), folder / f"{name}.joblib")


def load(folder: Path) -> Predict:
    """Open the stored encoder and classifiers."""
    encoder = Encoder(folder)
    models = {file.stem: joblib.load(file) for file in folder.glob("*.joblib")}
    return lambda texts, domain: (models.get("all") or models[domain]).predict(encoder.embed(texts))


if __name__ == "__main__":
    run_method(train, load, weights=["model.safetensors", "*.joblib"])
