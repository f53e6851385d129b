"""The floor of a comparison: what a linear model over words learns from the same train rows, in seconds.

TF-IDF of words and of pairs of neighbouring words, then logistic regression (scikit-learn). Nothing is chosen on dev or
test: the settings below are the same for all data. Texts are read whole, whatever the models cut them to.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hrkd_cli.choices import Split
from hrkd_cli.data.dataset import Dataset, TextRows
from hrkd_cli.errors import DataError, UsageError
from hrkd_cli.evaluation.scoring import Labels
from hrkd_cli.events import Note, OnEvent

FLOOR = "tf-idf + logistic regression"
KIND = "floor"

REGULARISATION = 4.0
"""scikit-learn's C. Accuracy is flat around it: from 1 to 16 dev moves by 1.2 points on Amazon reviews and on MNLI."""
MANY_ROWS = 1000
"""Train rows from which a word must be in two texts to count; with fewer, one text is enough."""

# Letters and digits of any script, single ones too: scikit-learn's own pattern drops "I" and "a".
_WORD = r"(?u)\b\w+\b"
_TOLERANCE = 1e-6  # scikit-learn's own stops after a few steps on rows this sparse
_STEPS = 1000


@dataclass(frozen=True, slots=True)
class LinearBaseline:
    """A linear model's labels, its train rows, and the words and pairs of words that it has weights for."""

    labels: Labels
    rows: int
    words: int


def train_linear_baseline(
    learn_from: Dataset, rows: Mapping[str, TextRows], split: str, data: str, on_event: OnEvent
) -> LinearBaseline:
    """Train on the train rows of ``learn_from`` and label rows of a split of some or all of its domains.

    One model serves all domains if their labels are equal; else each has its own. Messages call the dataset ``data``.

    Raises:
        UsageError: the split holds the train rows.
        DataError: there are no train rows, or none of a domain with labels of its own; or they have no words.
    """
    if split in (Split.TRAIN, Split.ALL):
        raise UsageError(f"--floor: it learns from the train split, which --split {split} scores; take dev or test")
    alike = len(set(learn_from.labels.values())) == 1
    groups = [learn_from.domains] if alike else [(domain,) for domain in rows]
    labels: Labels = {}
    learnt = words = 0
    for domains in groups:
        parts = [learn_from.split(domain, Split.TRAIN) for domain in domains]
        truth = [name for part in parts for name in part.labels]
        if not truth:
            of = "" if alike else f" of {domains[0]}"
            raise DataError(
                f"{data}: no train rows{of} for --floor to learn from; name data with a train split "
                "(hrkd prepare makes one), or leave --floor out"
            )
        on_event(Note(f"training the linear floor on {len(truth):,} rows of {', '.join(domains)}"))
        model, size = _fit(np.concatenate([_columns(part) for part in parts]), truth, data)
        learnt, words = learnt + len(truth), words + size
        labels |= {domain: model.predict(_columns(rows[domain])) for domain in domains if domain in rows}
    return LinearBaseline(labels, learnt, words)


def _fit(columns: npt.NDArray[np.object_], labels: Sequence[str], data: str) -> tuple[Any, int]:
    """Train one pipeline, which labels a table of ``_columns``; return it and the number of words that it knows."""
    from sklearn.compose import ColumnTransformer
    from sklearn.dummy import DummyClassifier
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    if len(set(labels)) == 1:
        return DummyClassifier().fit(columns, labels), 0
    words = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, min_df=2 if len(labels) >= MANY_ROWS else 1, token_pattern=_WORD
    )
    # The two texts of a pair have features of their own: the same word in the other text is another one.
    sides = [side for side in range(columns.shape[1]) if any(re.search(_WORD, text) for text in columns[:, side])]
    features = ColumnTransformer([(str(side), words, side) for side in sides])
    model = make_pipeline(features, LogisticRegression(C=REGULARISATION, tol=_TOLERANCE, max_iter=_STEPS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        try:
            model.fit(columns, labels)
        except ValueError:  # no word, or none that is in two texts
            raise DataError(f"{data}: no word in the train texts that --floor could learn from; leave it out") from None
    return model, int(model[-1].n_features_in_)


def _columns(rows: TextRows) -> npt.NDArray[np.object_]:
    """Return the texts as a table, [n, 1], or [n, 2] for pairs."""
    sides = [rows.texts] if rows.pairs is None else [rows.texts, rows.pairs]
    return np.array(sides, dtype=object).T
