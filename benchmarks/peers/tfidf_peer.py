"""TF-IDF of words and word pairs, and logistic regression.

If the domains have the same labels, one model is trained with weights that all domains share and weights of each
domain, and their sums are stored. Otherwise there is one model per domain. The settings are those of ``hrkd eval
--floor``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import scipy.sparse as sp
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from peer import Data, Options, Predict, Text, run_method

REGULARIZATION = 4.0  # C
MIN_ROWS_FOR_MIN_DF = 1000  # train rows from which a word must occur in two texts


def columns(texts: Sequence[Text]) -> list[list[str]]:
    """Return the texts, or first and second texts of pairs."""
    return [list(texts)] if isinstance(texts[0], str) else [list(column) for column in zip(*texts, strict=True)]


def features(vectorizers: Sequence[Any], texts: Sequence[Text]) -> Any:
    """Return TF-IDF of the texts, (texts, words)."""
    parts = [vectorizer.transform(column) for vectorizer, column in zip(vectorizers, columns(texts), strict=True)]
    return parts[0] if len(parts) == 1 else sp.hstack(parts).tocsr()


def train(data: Data, folder: Path, options: Options) -> None:
    """Train one model, or one per domain, and store each model's vectorizers and the weights of each domain."""
    for name, of_rows, rows in data.groups():
        min_df = 2 if len(rows.texts) >= MIN_ROWS_FOR_MIN_DF else 1
        vectorizers = [
            TfidfVectorizer(
                ngram_range=(1, 2), sublinear_tf=True, min_df=min_df, token_pattern=r"(?u)\b\w+\b", dtype=np.float32
            ).fit(column)
            for column in columns(rows.texts)
        ]
        shared, domains = features(vectorizers, rows.texts), sorted(set(of_rows))
        own = [sp.diags_array([float(domain == other) for other in of_rows]) @ shared for domain in domains]
        inputs = sp.hstack([shared, *own] if len(domains) > 1 else [shared]).tocsr()
        model = LogisticRegression(C=REGULARIZATION, max_iter=1000).fit(inputs, rows.labels)
        first, *others = np.split(model.coef_, inputs.shape[1] // shared.shape[1], axis=1)
        others = others or [np.zeros_like(first)]
        weights = {d: (first + other).astype(np.float32) for d, other in zip(domains, others, strict=True)}
        joblib.dump((vectorizers, weights, model.intercept_, model.classes_), folder / f"{name}.joblib")


def load(folder: Path) -> Predict:
    """Open the stored models."""
    models = [joblib.load(file) for file in sorted(folder.glob("*.joblib"))]
    of_domain = {domain: model for model in models for domain in model[1]}

    def predict(texts: Sequence[Text], domain: str) -> Sequence[str]:
        vectorizers, weights, intercept, classes = of_domain[domain]
        scores = features(vectorizers, texts) @ weights[domain].T + intercept
        return classes[(scores[:, 0] > 0).astype(int) if len(classes) == 2 else scores.argmax(axis=1)]

    return predict


if __name__ == "__main__":
    run_method(train, load, weights=["*.joblib"])
