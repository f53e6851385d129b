import numpy as np
import pytest

from hrkd_cli.data.dataset import Dataset, TextRows
from hrkd_cli.errors import DataError, ModelError
from hrkd_cli.evaluation.scoring import agreement, match_heads, predict_labels, select_split
from hrkd_cli.events import Progress
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.predict.model_spec import ModelSpec
from tiny_folder import make_dataset

OURS = DomainHeads.build({"books": ["negative", "positive"], "dvd": ["negative", "positive"]})


class FakeBackend:
    """Remembers how it was asked; says "positive" of texts that hold the word "good"."""

    def __init__(self, *, heads=OURS, pair=False, config=None, default_batch_size=1):
        self.spec = ModelSpec(config or {}, heads, 24, pair)
        self.tokenizer = type("Tokenizer", (), {"max_length": 24})
        self.default_batch_size = default_batch_size
        self.calls = []

    def logits(self, texts, pairs=None, *, batch_size=1, pad_to=None):
        self.calls.append((batch_size, pad_to))
        return np.array([[0, 1, 0, 1] if "good" in text else [1, 0, 1, 0] for text in texts], dtype=np.float32)


def fit(backend, dataset, model="m", data="d"):
    return match_heads(backend, dataset, select_split(dataset, "test", data), model, data)


def rows(*labels, domain="books", split="test"):
    return make_dataset({domain: {split: (["a good text"] * len(labels), list(labels))}})


def test_ours_keeps_its_heads():
    assert fit(FakeBackend(), rows("positive")) is OURS


def test_unknown_domain():
    with pytest.raises(DataError, match=r"data\.csv: domain 'cars' is not one of student's: books, dvd"):
        fit(FakeBackend(), rows("positive", domain="cars"), "student", "data.csv")


def test_a_domain_without_rows_in_the_split_does_not_matter():
    both = make_dataset({"books": {"test": (["a"], ["positive"])}, "cars": {"train": (["a"], ["positive"])}})
    assert list(select_split(both, "test", "d")) == ["books"]
    assert fit(FakeBackend(), both) is OURS


def test_unknown_label():
    with pytest.raises(DataError, match="label 'neutral' of domain 'books' is not one of m's: negative, positive"):
        fit(FakeBackend(), rows("neutral", "positive"))


def test_pairs_must_match():
    pairs = Dataset({"books": ("positive",)}, True, "", None, {"books": {"test": TextRows(["a"], ["b"], ["positive"])}})
    with pytest.raises(DataError, match="a row has two but the model m reads one text"):
        fit(FakeBackend(), pairs)
    with pytest.raises(DataError, match="a row has one but the model m reads two texts"):
        fit(FakeBackend(pair=True), rows("positive"))


def test_a_foreign_classifier_answers_for_every_domain_by_label_name():
    config = {"id2label": {"0": "Positive", "1": "Negative"}}
    foreign = FakeBackend(heads=None, pair=None, config=config)
    data = make_dataset({d: {"test": (["a", "b"], ["negative", "positive"])} for d in ("cars", "pets")})
    assert fit(foreign, data).columns == {"cars": (1, 0), "pets": (1, 0)}
    with pytest.raises(ModelError, match="no label 'neutral'"):
        fit(foreign, rows("neutral"))


def test_an_empty_split():
    with pytest.raises(DataError, match="no rows in the test split; it has dev"):
        select_split(rows("positive", split="dev"), "test", "d")


def test_graphs_are_scored_alone_and_padded_to_the_full_length():
    backend = FakeBackend()
    seen = []
    labels = predict_labels(backend, OURS, {"books": TextRows(["a good text"] * 2, None, [])}, on_event=seen.append)
    predict_labels(backend, OURS, {"books": TextRows(["a good text"], None, [])}, padded=True)
    assert backend.calls == [(1, None), (32, 24)]
    assert labels["books"].tolist() == ["positive", "positive"]
    assert seen == [Progress("scoring", 2, 2)]


def test_many_rows_keep_their_order():
    texts = ["good" if i % 3 else "bad" for i in range(700)]
    labels = predict_labels(FakeBackend(default_batch_size=32), OURS, {"books": TextRows(texts, None, [])})
    assert labels["books"].tolist() == ["positive" if text == "good" else "negative" for text in texts]


def test_agreement_is_over_all_rows():
    one = {"a": np.array(["x", "x", "x"]), "b": np.array(["y"])}
    assert agreement(one, {"a": np.array(["x", "y", "x"]), "b": np.array(["x"])}) == 0.5
