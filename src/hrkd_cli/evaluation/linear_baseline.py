"""Linear baselines for a comparison (``--floor``): logistic regression on the same train rows, trained in seconds.

Features are TF-IDF of words, or the mean hidden state of an encoder that is not trained (scikit-learn). The settings
below are the same for all data, so nothing is tuned on dev or test. ``hrkd distill`` also compares a new student with
them, on dev.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hrkd_cli.choices import Split
from hrkd_cli.data.dataset import Dataset, TextRows, sample_rows
from hrkd_cli.errors import DataError, ModelError, one_line
from hrkd_cli.evaluation.metrics import average_scores
from hrkd_cli.evaluation.provenance import find_start_encoder
from hrkd_cli.evaluation.scoring import PredictedLabels, score_labels
from hrkd_cli.events import Note, OnEvent, Progress
from hrkd_cli.predict.model_spec import position_limit

BASELINE_KIND = "floor"

TFIDF_REGULARIZATION = 4.0
"""C of scikit-learn. From 1 to 16, dev accuracy varies by only 1.2 points on Amazon reviews and on MNLI."""
ENCODER_REGULARIZATION = 16.0
"""C times the number of features. From 4 to 64, dev accuracy varies by at most 1.5 points on reviews and intents."""
MIN_ROWS_FOR_MIN_DF = 1000  # train rows from which a word must occur in two texts; with fewer rows, one text is enough
ENCODER_MAX_LENGTH = 256  # tokens of a text that a frozen encoder reads
ENCODER_BATCH_SIZE = 32
DEV_SCORE_ROWS = 5000
"""Rows of a split, of all domains together, for ``baseline_dev_scores``: a frozen BERT-base takes minutes on a CPU."""

# Letters and digits of any script. Unlike scikit-learn's default, it keeps one-letter words ("I", "a").
_WORD = r"(?u)\b\w+\b"
_TOLERANCE = 1e-6  # scikit-learn's default stops after a few iterations on such sparse rows
_MAX_ITERATIONS = 1000


class TfidfFeatures:
    """TF-IDF of words and pairs of adjacent words. Texts are never truncated, and those of a pair are separate."""

    baseline = "tf-idf + logistic regression"
    unit = "words"
    regularization = TFIDF_REGULARIZATION

    def inputs(self, rows: TextRows) -> npt.NDArray[np.object_]:
        """Return the texts, (n, 1), or (n, 2) for pairs."""
        columns = [rows.texts] if rows.pairs is None else [rows.texts, rows.pairs]
        return np.array(columns, dtype=object).T

    def pipeline(self, inputs: npt.NDArray[np.object_]) -> Any:
        """Return a vectorizer for each text of a row, and the classifier."""
        from sklearn.compose import ColumnTransformer
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.pipeline import make_pipeline

        min_df = 2 if len(inputs) >= MIN_ROWS_FOR_MIN_DF else 1
        vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=min_df, token_pattern=_WORD)
        # A column without words would be an error.
        columns = [n for n in range(inputs.shape[1]) if any(re.search(_WORD, text) for text in inputs[:, n])]
        vectorizers = ColumnTransformer([(str(n), vectorizer, n) for n in columns])
        return make_pipeline(vectorizers, _classifier(self.regularization))


class FrozenEncoderFeatures:
    """Mean of an encoder's last hidden states over a row's tokens.

    Raises:
        ModelError: the encoder is not on this machine, or cannot be opened.
    """

    unit = "width"
    regularization = ENCODER_REGULARIZATION

    def __init__(self, encoder: str | Path, *, device: str = "auto") -> None:
        from hrkd_cli.models.device import pick_device
        from hrkd_cli.models.loading import load_encoder, load_tokenizer
        from hrkd_cli.models.model_source import resolve_model
        from hrkd_cli.models.model_tokenizer import ModelTokenizer

        folder = resolve_model(encoder, download=False)  # the user did not name it: a file did
        self.baseline = f"frozen {Path(encoder).name} + logistic regression"
        self.device = pick_device(device)
        self.model, pretrained = load_encoder(folder).to(self.device), load_tokenizer(folder)
        positions = position_limit(self.model.config.to_dict()) or ENCODER_MAX_LENGTH
        max_length = int(min(ENCODER_MAX_LENGTH, pretrained.model_max_length, positions))
        self.tokenizer = ModelTokenizer(self.model, pretrained, max_length)

    def inputs(self, rows: TextRows) -> npt.NDArray[np.float32]:
        """Return the pooled hidden states, (n, H)."""
        import torch

        examples = self.tokenizer.encode_rows(rows)
        by_length = np.argsort([len(example) for example in examples], kind="stable")
        pooled = np.zeros((len(rows), self.model.config.hidden_size), dtype=np.float32)
        for start in range(0, len(rows), ENCODER_BATCH_SIZE):
            batch = by_length[start : start + ENCODER_BATCH_SIZE]
            tokens = self.tokenizer.collate([examples[row] for row in batch], self.device)
            with torch.inference_mode():
                hidden = self.model(**tokens.inputs).last_hidden_state
            mask = tokens.mask[..., None]
            pooled[batch] = ((hidden * mask).sum(1) / mask.sum(1)).cpu().numpy()
        return pooled

    def pipeline(self, inputs: npt.NDArray[np.float32]) -> Any:
        """Return standardization and the classifier, whose C does not depend on the number of features."""
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        return make_pipeline(StandardScaler(), _classifier(self.regularization / inputs.shape[1]))


Features = TfidfFeatures | FrozenEncoderFeatures
"""Features of a baseline: its name, the unit of their number and the reported C; inputs and an untrained pipeline."""


@dataclass(frozen=True, slots=True)
class LinearBaseline:
    """Predictions of a linear model.

    Attributes:
        features: what it was trained on.
        labels: predicted labels by domain.
        rows: number of train rows.
        num_features: number of features; if domains have separate models, of all of them.
    """

    features: Features
    labels: PredictedLabels
    rows: int
    num_features: int

    def to_json(self) -> dict[str, Any]:
        """Return what it was trained on."""
        size = {"train_rows": self.rows, self.features.unit: self.num_features}
        return {**size, "regularisation": self.features.regularization}


def baseline_dev_scores(dataset: Dataset, teacher: Path, device: str, on_event: OnEvent) -> dict[str, float]:
    """Return the dev accuracy of each baseline by name, the unweighted mean over domains; empty if one fails.

    Args:
        dataset: data of the student. Of more than ``DEV_SCORE_ROWS`` rows of a split, random ones are used.
        teacher: folder that says which encoder to use.
        device: where the encoder runs.
        on_event: receives notes, also about a baseline that cannot be trained.
    """
    splits = (Split.TRAIN, Split.DEV)
    rows = {
        domain: {str(split): sampled_rows(dataset, domain, split) for split in splits} for domain in dataset.domains
    }
    train_data = replace(dataset, rows=rows)
    dev = {domain: parts[Split.DEV] for domain, parts in rows.items()}
    try:
        baselines = train_linear_baselines([teacher], train_data, dev, "the data", device=device, on_event=on_event)
    except Exception as error:  # the student is trained but not yet written, and must not be lost
        on_event(Note(f"not compared with linear baselines: {one_line(error)}", warning=True))
        return {}
    return {
        baseline.features.baseline: average_scores(score_labels(baseline.labels, dataset.labels, dev)).accuracy
        for baseline in baselines
    }


def sampled_rows(dataset: Dataset, domain: str, split: str) -> TextRows:
    """Return random rows of a domain, so that all domains together have at most about ``DEV_SCORE_ROWS``."""
    rows, total = dataset.split(domain, split), dataset.count(split)
    sample = sample_rows(len(rows), DEV_SCORE_ROWS / max(total, 1))
    pairs = None if rows.pairs is None else [rows.pairs[n] for n in sample]
    return TextRows([rows.texts[n] for n in sample], pairs, [rows.labels[n] for n in sample])


def train_linear_baselines(
    models: Sequence[str | Path],
    train_data: Dataset,
    rows: Mapping[str, TextRows],
    data_name: str,
    *,
    device: str,
    on_event: OnEvent,
) -> list[LinearBaseline]:
    """Train a baseline on words and, if it is known which encoder ``models`` started from, one on its hidden states.

    Raises:
        DataError: see ``train_linear_baseline``.
    """
    features: list[Features] = [TfidfFeatures()]
    if (encoder := find_start_encoder(models, on_event)) is not None:
        try:
            features.append(FrozenEncoderFeatures(encoder, device=device))
        except ModelError as error:
            on_event(Note(f"no baseline on the frozen encoder: {error}"))
    return [train_linear_baseline(each, train_data, rows, data_name, on_event) for each in features]


def train_linear_baseline(
    features: Features, train_data: Dataset, rows: Mapping[str, TextRows], data_name: str, on_event: OnEvent
) -> LinearBaseline:
    """Train on the train rows of ``train_data`` and predict ``rows`` by domain.

    Domains with the same labels share one model, which also predicts other domains; otherwise each has its own.
    ``data_name`` names the dataset in errors.

    Raises:
        DataError: a model has no train rows, or they contain no words.
    """
    same_labels = len(set(train_data.labels.values())) == 1
    groups = [(train_data.domains, tuple(rows))] if same_labels else [((domain,), (domain,)) for domain in rows]
    labels: PredictedLabels = {}
    num_rows = num_features = 0
    for domains, scored in groups:
        parts = [train_data.split(domain, Split.TRAIN) for domain in domains if domain in train_data.labels]
        train_labels = [label for part in parts for label in part.labels]
        of_domain = "" if same_labels else f" of {domains[0]}"
        if not train_labels:
            raise DataError(
                f"{data_name}: no train rows{of_domain} for --floor; use data with a train split (hrkd prepare makes "
                "one), or omit --floor"
            )
        inputs = np.concatenate(_inputs(features, [part for part in parts if len(part)], on_event))
        on_event(Progress(f"training {features.baseline} on {len(train_labels):,} rows{of_domain}"))
        model, size = _fit(features, inputs, train_labels, data_name)
        num_rows, num_features = num_rows + len(train_labels), num_features + size
        scored_inputs = _inputs(features, [rows[domain] for domain in scored], on_event)
        labels |= {domain: model.predict(own) for domain, own in zip(scored, scored_inputs, strict=True)}
    return LinearBaseline(features, labels, num_rows, num_features)


def _inputs(features: Features, parts: Sequence[TextRows], on_event: OnEvent) -> list[npt.NDArray[Any]]:
    """Return the inputs of the rows of each domain."""
    done, total, inputs = 0, sum(map(len, parts)), []
    for part in parts:
        on_event(Progress(f"encoding texts for {features.baseline}", done, total))
        inputs.append(features.inputs(part))
        done += len(part)
    return inputs


def _fit(features: Features, inputs: npt.NDArray[Any], labels: Sequence[str], data_name: str) -> tuple[Any, int]:
    """Train one pipeline; return it and its number of features."""
    from sklearn.dummy import DummyClassifier
    from sklearn.exceptions import ConvergenceWarning

    if len(set(labels)) == 1:
        return DummyClassifier().fit(inputs, labels), 0
    model = features.pipeline(inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        try:
            model.fit(inputs, labels)
        except ValueError:  # no words, or none that occurs in two texts
            raise DataError(f"{data_name}: no words in the train texts for --floor; omit it") from None
    return model, int(model[-1].n_features_in_)


def _classifier(regularization: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=regularization, tol=_TOLERANCE, max_iter=_MAX_ITERATIONS)
