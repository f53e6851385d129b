"""Training of a student's wide branch: logistic regression on token counts, added to the student if that helps on dev.

The branch learns from labels and domains alone, apart from the encoder, and dev determines its share in the logits.
Trained jointly it would learn little, because an encoder soon fits nearly all train texts without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from hrkd_cli.choices import Split
from hrkd_cli.data.dataset import Dataset, TextRows
from hrkd_cli.evaluation.metrics import is_more_accurate, scores_to_json
from hrkd_cli.events import Note, OnEvent, Progress
from hrkd_cli.formatting import percent
from hrkd_cli.models.model_tokenizer import ModelTokenizer
from hrkd_cli.models.wide import ScoredWideBranch, WideBranch, hash_pairs
from hrkd_cli.predict.heads import DomainHeads, DoubleArray, FloatArray, domain_logits, predict_label_indices
from hrkd_cli.predict.tokenization import TokenizedExample
from hrkd_cli.training.dev_scoring import score_logits
from hrkd_cli.training.plan import token_limit
from hrkd_cli.training.tokenized_split import TokenizedSplit, tokenize_split

REGULARIZATION = 4.0
"""C of scikit-learn. From 1 to 16, accuracy on reviews varies by at most 1.3 points."""
MAX_PAIR_WEIGHTS = 2**20
"""Weights of token pairs over all outputs: 1 MB in int8."""
MAX_ROWS = 50_000
"""Train rows of all domains together; of more, random ones are used."""
SIGNIFICANT = 3.84
"""Twice the gain in log-likelihood on dev that a useless branch exceeds in 5 % of cases (chi-squared, 1 degree)."""

Logits = Mapping[str, FloatArray]

_TOLERANCE, _MAX_ITERATIONS = 1e-4, 1000
_SCALE_BOUNDS = ((0.02, 10.0), (0.0, 10.0))


class KeptColumns(NamedTuple):
    """Columns that stay as they are when a student is extended.

    Attributes:
        columns: for each of these columns, its column in the student that is extended.
        branch: the wide branch of that student, if it has one.
    """

    columns: dict[int, int]
    branch: WideBranch | None


def fit_wide_branch(
    student: Any,
    train: TokenizedSplit,
    dataset: Dataset,
    heads: DomainHeads,
    dev_logits: Logits,
    on_event: OnEvent,
    *,
    domain_texts: Mapping[str, TextRows] | None = None,
    kept: KeptColumns | None = None,
) -> ScoredWideBranch | None:
    """Train a wide branch for a student; return None if it does not help on dev.

    Args:
        student: the transformers model.
        train: the train split, tokenized as for the encoder.
        dataset: the student's data. Pairs get no branch: what counts is how the words of two texts relate.
        heads: the student's outputs by domain.
        dev_logits: the student's logits for the dev rows of each domain, (n, outputs).
        on_event: receives notes on the outcome.
        domain_texts: unlabeled texts of the domains without labels, as evidence of these domains; at most as many are
            used as the largest domain has train rows. None if the softmax over all outputs is not p(domain, label |
            text), and need not remain so.
        kept: columns of a branch that is extended, whose domains have no train rows.
    """
    if dataset.has_pairs:
        return None
    on_event(Progress("fitting the wide branch"))
    limit = token_limit(student, train.tokenizer.pretrained)
    tokenizer = ModelTokenizer(student, train.tokenizer.pretrained, limit)
    whole, dev = (tokenize_split(dataset, split, tokenizer) for split in (Split.TRAIN, Split.DEV))
    if not drops_inner_tokens(train, whole):
        on_event(Note("no wide branch: truncated texts do not end with the last token of the whole text"))
        return None
    features = WideFeatures.count(whole, dev, heads, int(student.config.vocab_size), kept)
    weights = fit_weights(features.train, features.labels, heads)
    if kept is not None:
        weights[:, list(kept.columns)] = 0
    wide_logits = _products(features.dev, weights)
    share, effect = find_useful_share(dev_logits, wide_logits, dev, heads)
    weights *= share
    if kept is not None and kept.branch is not None:
        old_weights = kept.branch.embedding.weight.detach().numpy()
        weights[:, list(kept.columns)] = old_weights[:, list(kept.columns.values())]
        effect = effect if share else "of the old domains only"
        wide_logits, share = _products(features.dev, weights), 1.0
    if not share:
        on_event(Note(f"no wide branch: {effect}"))
        return None
    sums = _add(dev_logits, wide_logits, share)
    if domain_texts is not None:
        weights += fit_domain_weights(features.with_texts(domain_texts, tokenizer, heads), features.dev, sums, heads)
    sizes = f"{features.vocab_size:,} tokens and {features.buckets:,} token pairs"
    on_event(Note(f"wide branch added: weights for {sizes}, {effect}"))
    branch = WideBranch(torch.from_numpy(weights.astype(np.float32)), features.vocab_size)
    return ScoredWideBranch(branch, limit, scores_to_json(score_logits(sums, dev, heads)))


def find_useful_share(
    dev_logits: Logits, wide_logits: Logits, dev: TokenizedSplit, heads: DomainHeads
) -> tuple[float, str]:
    """Return the factor of the wide logits, and their effect on dev; 0 and the reason if they do not help."""
    share = choose_share(_own_logits(dev_logits, heads), _own_logits(wide_logits, heads), dev.labels)
    if not share:
        return 0.0, "it does not improve the dev predictions"
    sums = _add(dev_logits, wide_logits, share)
    before, after = (scores_to_json(score_logits(logits, dev, heads))["average"] for logits in (dev_logits, sums))
    change = f"{percent(before['accuracy'])}% -> {percent(after['accuracy'])}%"
    # From a few rows per label, a branch may improve the probabilities of its student's wrong answers only.
    if lowers_accuracy(dev_logits, sums, dev.labels, heads):
        return 0.0, f"it lowers dev accuracy ({change})"
    return share, f"dev accuracy {change}"


@dataclass(frozen=True, slots=True)
class WideFeatures:
    """The input of a wide branch by domain, from whole texts.

    Attributes:
        vocab_size, buckets: numbers of token and of pair columns.
        train: counts for at most ``MAX_ROWS`` train rows, (n, vocab_size + buckets), sparse.
        labels: label indices of these rows, (n,).
        dev: counts for all dev rows.
    """

    vocab_size: int
    buckets: int
    train: dict[str, Any]
    labels: dict[str, np.ndarray]
    dev: dict[str, Any]

    @classmethod
    def count(
        cls, train: TokenizedSplit, dev: TokenizedSplit, heads: DomainHeads, vocab_size: int, kept: KeptColumns | None
    ) -> WideFeatures:
        """Count tokens and pairs; with as many buckets as a branch that is extended."""
        buckets = 2 ** int(np.log2(MAX_PAIR_WEIGHTS / heads.num_outputs))
        if kept is not None and kept.branch is not None:
            buckets = len(kept.branch.embedding.weight) - vocab_size
        sample = train.subsample(MAX_ROWS)
        features, dev_features = (
            {domain: token_features(rows, vocab_size, buckets) for domain, rows in split.examples.items()}
            for split in (sample, dev)
        )
        return cls(vocab_size, buckets, features, sample.labels, dev_features)

    def with_texts(
        self, texts: Mapping[str, TextRows], tokenizer: ModelTokenizer, heads: DomainHeads
    ) -> dict[str, Any]:
        """Return the counts of the train rows and of the texts of further domains, in the order of the heads."""
        most = max(map(len, self.labels.values()))
        cut = {domain: replace(rows, texts=rows.texts[:most]) for domain, rows in texts.items()}
        more = {d: token_features(tokenizer.encode_rows(r), self.vocab_size, self.buckets) for d, r in cut.items()}
        features = self.train | more
        return {domain: features[domain] for domain in heads.domains}


def lowers_accuracy(before: Logits, after: Logits, labels: Mapping[str, np.ndarray], heads: DomainHeads) -> bool:
    """Return whether significantly more rows become wrong than right."""
    was_right, is_right = (
        np.concatenate([predict_label_indices(rows, heads, d) == labels[d] for d, rows in logits.items()])
        for logits in (before, after)
    )
    return is_more_accurate(was_right, is_right)


def drops_inner_tokens(truncated: TokenizedSplit, whole: TokenizedSplit) -> bool:
    """Return whether truncation keeps the first tokens and the last one, as the exported graph does."""
    for domain, examples in whole.examples.items():
        for short, full in zip(truncated.examples[domain], examples, strict=False):  # unlabeled rows follow
            if len(short) < len(full) and not np.array_equal(short.ids, [*full.ids[: len(short) - 1], full.ids[-1]]):
                return False
    return True


def token_features(examples: Sequence[TokenizedExample], vocab_size: int, buckets: int) -> Any:
    """Return the counts of tokens and hashed token pairs over the square root of the length, (n, V + B), sparse."""
    from scipy.sparse import csr_array

    columns = [
        np.concatenate([ids, vocab_size + hash_pairs(ids[:-1], ids[1:], buckets)])
        for ids in (np.asarray(example.ids, dtype=np.int64) for example in examples)
    ]
    values = [np.full(len(own), 1 / np.sqrt(len(example))) for own, example in zip(columns, examples, strict=True)]
    ends = np.cumsum([0, *map(len, columns)])
    matrix = csr_array(
        (np.concatenate(values), np.concatenate(columns), ends), shape=(len(examples), vocab_size + buckets)
    )
    matrix.sum_duplicates()
    return matrix


def branch_logits(branch: WideBranch, examples: Sequence[TokenizedExample]) -> FloatArray:
    """Return the logits of a branch, (n, outputs)."""
    weight = branch.embedding.weight.detach().numpy()
    features = token_features(examples, branch.vocab_size, len(weight) - branch.vocab_size)
    return np.asarray(features @ weight, dtype=np.float32)


def fit_weights(features: Mapping[str, Any], labels: Mapping[str, np.ndarray], heads: DomainHeads) -> DoubleArray:
    """Return the weights (F, O) of logistic regression on the features (n, F) of each domain.

    Features are scaled by inverse document frequency. Domains with the same labels share a part of their weights: each
    has its own copy of the features besides a common one ("Frustratingly Easy Domain Adaptation", Daumé, 2007). A
    domain without features gets the common weights.
    """
    import scipy.sparse as sp

    idf = _inverse_document_frequency(features)
    scaled = {domain: rows * idf[None, :] for domain, rows in features.items()}
    weights = np.zeros((len(idf), heads.num_outputs))
    if len(set(heads.labels.values())) > 1:
        for domain, rows in scaled.items():
            weights[:, list(heads.columns[domain])] = _fit(rows, labels[domain], len(heads.labels[domain]))
    else:
        copies = sp.hstack([sp.vstack(list(scaled.values())), sp.block_diag(list(scaled.values()))], format="csr")
        size = len(heads.labels[heads.domains[0]])
        common, *own = np.split(_fit(copies, np.concatenate(list(labels.values())), size), 1 + len(scaled))
        own_part = dict(zip(scaled, own, strict=True))
        for domain, columns in heads.columns.items():
            weights[:, list(columns)] = common + own_part.get(domain, 0.0)
    weights *= idf[:, None]
    return weights


def fit_domain_weights(
    features: Mapping[str, Any], dev_features: Mapping[str, Any], dev_logits: Logits, heads: DomainHeads
) -> DoubleArray:
    """Return weights (F, O) that are evidence of the domain, equal for all outputs of a domain.

    They are those of logistic regression on the features, in which all domains are equally frequent, times the share
    that predicts the domains of dev best together with ``dev_logits``, (n, outputs). The softmax over the labels of a
    domain does not change.
    """
    import scipy.sparse as sp

    idf = _inverse_document_frequency(features)
    scaled = sp.vstack(list(features.values())) * idf[None, :]
    domains = np.repeat(np.arange(len(features)), [rows.shape[0] for rows in features.values()])
    weights = idf[:, None] * _fit(scaled, domains, len(features), class_weight="balanced")
    logits = {domain: domain_logits(rows, heads).astype(np.float32) for domain, rows in dev_logits.items()}
    targets = {domain: np.full(len(rows), heads.domains.index(domain)) for domain, rows in dev_logits.items()}
    share = choose_share(logits, _products(dev_features, weights), targets)
    return share * weights[:, np.repeat(np.arange(len(heads.domains)), list(map(len, heads.columns.values())))]


def _inverse_document_frequency(features: Mapping[str, Any]) -> DoubleArray:
    import scipy.sparse as sp
    from sklearn.feature_extraction.text import TfidfTransformer

    idf: DoubleArray = TfidfTransformer().fit(sp.vstack(list(features.values()))).idf_
    return idf


def _own_logits(logits: Logits, heads: DomainHeads) -> Logits:
    return {domain: rows[:, list(heads.columns[domain])] for domain, rows in logits.items()}


def _add(logits: Logits, wide_logits: Logits, share: float) -> Logits:
    return {domain: logits[domain] + np.float32(share) * rows for domain, rows in wide_logits.items()}


def _products(features: Mapping[str, Any], weights: DoubleArray) -> Logits:
    return {domain: (rows @ weights).astype(np.float32) for domain, rows in features.items()}


def _fit(rows: Any, labels: np.ndarray, size: int, **options: Any) -> DoubleArray:
    """Return the weights (F, ``size``) of multinomial logistic regression without intercepts."""
    from sklearn.linear_model import LogisticRegression

    weights = np.zeros((rows.shape[1], size))
    if len(np.unique(labels)) > 1:
        options |= {"C": REGULARIZATION, "fit_intercept": False, "tol": _TOLERANCE, "max_iter": _MAX_ITERATIONS}
        model = LogisticRegression(**options).fit(rows, labels)
        # Of two labels, scikit-learn returns the difference.
        weights[:, model.classes_] = (model.coef_ if len(model.coef_) > 1 else model.coef_ * [[-0.5], [0.5]]).T
    return weights


def choose_share(logits: Logits, wide_logits: Logits, labels: Mapping[str, np.ndarray]) -> float:
    """Return the factor of the wide logits in the sum that predicts dev best; 0 if its gain may be chance.

    The sum ``a x logits + b x wide_logits`` of the highest likelihood determines the factor b / a. The scale of the
    logits is free because a student is often too sure of its answers. A normal prior around (1, 0) keeps both finite if
    the sum answers all of dev correctly, when larger ones would always be likelier.
    """
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    def loss(scales: npt.NDArray[np.float64]) -> float:
        total = float((scales[0] - 1) ** 2 + scales[1] ** 2) / 2
        for domain, own in logits.items():
            sums = log_softmax(scales[0] * own + scales[1] * wide_logits[domain], axis=1)
            total -= float(sums[np.arange(len(own)), labels[domain]].sum())
        return total

    alone = minimize(lambda scale: loss(np.array([scale[0], 0.0])), [1.0], bounds=_SCALE_BOUNDS[:1])
    both = minimize(loss, [alone.x[0], 0.1], bounds=_SCALE_BOUNDS)
    return float(both.x[1] / both.x[0]) if 2 * (alone.fun - both.fun) > SIGNIFICANT else 0.0
