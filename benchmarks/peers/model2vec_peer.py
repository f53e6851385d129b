"""Static embeddings that model2vec distills from the encoder, standardized, and logistic regression per set of labels.

A pair's features are the embeddings of both texts, their absolute difference and their product.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from model2vec import StaticModel
from model2vec.distill import distill_from_model
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import AutoModel, AutoTokenizer

from peer import Data, Options, Predict, Text, run_method

REGULARIZATION = 16.0  # C times the number of features


def embed(model: StaticModel, texts: Sequence[Text]) -> Any:
    """Return the features of texts or pairs."""
    if isinstance(texts[0], str):
        return model.encode(texts)
    first, second = (model.encode(column) for column in zip(*texts, strict=True))
    return np.hstack([first, second, np.abs(first - second), first * second])


def distill_once(encoder: Path, folder: Path) -> StaticModel:
    """Return the embeddings of an encoder with model2vec's defaults, which are distilled once for all columns."""
    if not folder.exists():
        model = AutoModel.from_pretrained(encoder, dtype=torch.float32)
        static = distill_from_model(model, AutoTokenizer.from_pretrained(encoder), device="cpu")
        unfinished = folder.with_name(f"{folder.name}.partial")
        static.save_pretrained(unfinished)
        unfinished.rename(folder)
    return StaticModel.from_pretrained(folder)


def train(data: Data, folder: Path, options: Options) -> None:
    """Train one classifier, or one per domain."""
    model = distill_once(options.encoder, folder.parent.parent / f"model2vec-{options.encoder.name}")
    model.save_pretrained(folder)
    for name, _, rows in data.groups():
        inputs = embed(model, rows.texts)
        classifier = LogisticRegression(C=REGULARIZATION / inputs.shape[1], max_iter=1000)
        joblib.dump(make_pipeline(StandardScaler(), classifier).fit(inputs, rows.labels), folder / f"{name}.joblib")


def load(folder: Path) -> Predict:
    """Open the stored embeddings and classifiers."""
    model = StaticModel.from_pretrained(folder)
    models = {file.stem: joblib.load(file) for file in folder.glob("*.joblib")}
    return lambda texts, domain: (models.get("all") or models[domain]).predict(embed(model, texts))


if __name__ == "__main__":
    run_method(train, load, weights=["model.safetensors", "*.joblib"])
