"""The floor of a comparison: what a linear model over words learns from the same train rows, in seconds.

TF-IDF of words and of pairs of neighbouring words, then logistic regression (scikit-learn). Nothing is chosen on dev or
test: the settings below are the same for all data. Texts are read whole, whatever the models cut them to.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hrkd_cli.choices import Split
from hrkd_cli.data.dataset import Dataset, Rows
from hrkd_cli.errors import DataError, UsageError
from hrkd_cli.evaluation.scoring import Labels, scored_domains
from hrkd_cli.events import Note, OnEvent
from hrkd_cli.predict.heads import DomainHeads

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
class Floor:
    """A linear model's labels, and what it was made from.

    Attributes:
        labels: as of ``predict_labels``.
        heads: whose label names they are positions of.
        rows: train rows.
        words: words and pairs of words that it has weights for.
    """

    labels: Labels
    heads: DomainHeads
    rows: int
    words: int

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as plain values."""
        return {"train_rows": self.rows, "words": self.words, "regularisation": REGULARISATION}


def check_floor(learn_from: Dataset, dataset: Dataset, split: str, data: str) -> None:
    """Make sure that there is something to learn from, and something else to be scored on.

    Raises:
        UsageError: the split that is scored holds the train rows.
        DataError: there are no train rows, or none of a domain with labels of its own.
    """
    if split in (Split.TRAIN, Split.ALL):
        raise UsageError(f"--floor: it learns from the train split, which --split {split} scores; take dev or test")
    scored = scored_domains(dataset, split, data)
    for names in _groups(learn_from):
        if any(d in scored for d in names) and not len(_train_rows(learn_from, names)):
            of = f" of {names[0]}" if len(names) < len(learn_from.domains) else ""
            raise DataError(
                f"{data}: no train rows{of} for --floor to learn from; name data with a train split "
                "(hrkd prepare makes one), or leave --floor out"
            )


def make_floor(learn_from: Dataset, dataset: Dataset, split: str, data: str, on_event: OnEvent) -> Floor:
    """Train on the train rows and label a split: one model for all domains if their labels are equal, else one each.

    Args:
        learn_from: the data whose train rows are learnt from.
        dataset: the rows to label, some or all of the same data's domains.
        split: which part of them.
        data: what to call the data in messages.
        on_event: told what is being done.

    Raises:
        DataError: the texts have no words.
    """
    scored = scored_domains(dataset, split, data)
    heads = DomainHeads.build(dataset.labels)
    labels: Labels = {}
    rows = words = 0
    for names in _groups(learn_from):
        own = [domain for domain in names if domain in scored]
        if not own:
            continue
        train = _train_rows(learn_from, names)
        on_event(Note(f"training the linear floor on {len(train):,} rows of {', '.join(names)}"))
        model, size = _fit(train, data)
        rows, words = rows + len(train), words + size
        for domain in own:
            position = {name: index for index, name in enumerate(heads.labels[domain])}
            found = model.predict(_columns(dataset.split(domain, split)))
            labels[domain] = np.array([position[str(name)] for name in found], dtype=np.intp)
    # In the order of the domains, as of every model.
    return Floor({domain: labels[domain] for domain in scored}, heads, rows, words)


def _groups(dataset: Dataset) -> list[tuple[str, ...]]:
    """Return the domains that share a model: all, where their labels are equal."""
    if len(set(dataset.labels.values())) == 1:
        return [dataset.domains]
    return [(domain,) for domain in dataset.domains]


def _train_rows(dataset: Dataset, domains: Sequence[str]) -> Rows:
    parts = [dataset.split(domain, Split.TRAIN) for domain in domains]
    return Rows(
        texts=[text for part in parts for text in part.texts],
        pairs=[text for part in parts for text in part.pairs or ()] if dataset.pair else None,
        labels=[name for part in parts for name in part.labels],
    )


def _fit(train: Rows, data: str) -> tuple[Any, int]:
    """Train one pipeline, which labels a table of ``_columns``; return it and the number of words that it knows."""
    from sklearn.compose import ColumnTransformer
    from sklearn.dummy import DummyClassifier
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    columns = _columns(train)
    if len(set(train.labels)) == 1:
        return DummyClassifier().fit(columns, train.labels), 0
    words = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, min_df=2 if len(train) >= MANY_ROWS else 1, token_pattern=_WORD
    )
    # The two texts of a pair have features of their own: the same word in the other text is another one.
    sides = [side for side in range(columns.shape[1]) if any(re.search(_WORD, text) for text in columns[:, side])]
    features = ColumnTransformer([(str(side), words, side) for side in sides])
    model = make_pipeline(features, LogisticRegression(C=REGULARISATION, tol=_TOLERANCE, max_iter=_STEPS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        try:
            model.fit(columns, train.labels)
        except ValueError:  # no word, or none that is in two texts
            raise DataError(f"{data}: no word in the train texts that --floor could learn from; leave it out") from None
    return model, int(model[-1].n_features_in_)


def _columns(rows: Rows) -> npt.NDArray[np.object_]:
    """Return the texts as a table, [n, 1], or [n, 2] for pairs."""
    sides = [rows.texts] if rows.pairs is None else [rows.texts, rows.pairs]
    return np.array(sides, dtype=object).T
