import numpy as np
import pytest

from hrkd_cli.data.dataset import Dataset, TextRows
from hrkd_cli.errors import DataError, ModelError
from hrkd_cli.evaluation.evaluate import ModelResult
from hrkd_cli.evaluation.metrics import score_domain
from hrkd_cli.evaluation.reliability import judge_without_domain
from hrkd_cli.evaluation.scoring import (
    agreement,
    best_labels,
    compare_accuracy,
    count_domains,
    match_heads,
    predict_logits,
    select_split,
)
from hrkd_cli.events import Progress
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.predict.model_spec import ModelSpec
from tiny_folder import make_dataset

OURS = DomainHeads.build({"books": ["negative", "positive"], "dvd": ["negative", "positive"]})


class FakeBackend:
    """Predicts "positive" for texts that contain "good"; records batch sizes and padding."""

    def __init__(self, *, heads=OURS, pair=False, config=None, default_batch_size=1):
        self.spec = ModelSpec(config or {}, heads, 24, pair)
        self.tokenizer = type("Tokenizer", (), {"max_length": 24})
        self.default_batch_size = default_batch_size
        self.calls = []

    def logits(self, texts, pairs=None, *, batch_size=1, pad_to=None):
        self.calls.append((batch_size, pad_to))
        return np.array([[0, 1, 0, 1] if "good" in text else [1, 0, 1, 0] for text in texts], dtype=np.float32)


def match(backend, dataset, model="m", data="d"):
    return match_heads(backend, dataset, select_split(dataset, "test", data), model, data)


def rows(*labels, domain="books", split="test"):
    return make_dataset({domain: {split: (["a good text"] * len(labels), list(labels))}})


def test_a_multi_domain_model_keeps_its_heads():
    assert match(FakeBackend(), rows("positive")) is OURS


def test_a_domain_that_the_model_lacks_is_an_error():
    with pytest.raises(DataError, match=r"data\.csv: domain 'cars' is not one of student's: books, dvd"):
        match(FakeBackend(), rows("positive", domain="cars"), "student", "data.csv")


def test_a_domain_without_rows_in_the_split_is_ignored():
    both = make_dataset({"books": {"test": (["a"], ["positive"])}, "cars": {"train": (["a"], ["positive"])}})
    assert list(select_split(both, "test", "d")) == ["books"]
    assert match(FakeBackend(), both) is OURS


def test_a_label_that_the_model_lacks_is_an_error():
    with pytest.raises(DataError, match=r"label 'neutral' of .* negative, positive; rename it with hrkd prepare --re"):
        match(FakeBackend(), rows("neutral", "positive"))


def test_single_texts_and_pairs_do_not_mix():
    pairs = Dataset({"books": ("positive",)}, True, "", None, {"books": {"test": TextRows(["a"], ["b"], ["positive"])}})
    with pytest.raises(DataError, match="a row has two texts but m reads one text"):
        match(FakeBackend(), pairs)
    with pytest.raises(DataError, match="a row has one text but m reads two texts"):
        match(FakeBackend(pair=True), rows("positive"))


def test_a_classifier_with_plain_labels_is_matched_by_name_in_every_domain():
    config = {"id2label": {"0": "Positive", "1": "Negative"}}
    plain = FakeBackend(heads=None, pair=None, config=config)
    data = make_dataset({d: {"test": (["a", "b"], ["negative", "positive"])} for d in ("cars", "pets")})
    assert match(plain, data).columns == {"cars": (1, 0), "pets": (1, 0)}
    with pytest.raises(ModelError, match="no label 'neutral'"):
        match(plain, rows("neutral"))


def test_an_empty_split_is_an_error():
    with pytest.raises(DataError, match=r"d: no rows in the test split; it has dev$"):
        select_split(rows("positive", split="dev"), "test", "d")


def test_onnx_files_run_at_batch_size_1_and_padded_to_the_maximum_length():
    backend = FakeBackend()
    seen = []
    logits = predict_logits(backend, {"books": TextRows(["a good text"] * 2, None, [])}, on_event=seen.append)
    predict_logits(backend, {"books": TextRows(["a good text"], None, [])}, padded=True)
    assert backend.calls == [(1, None), (32, 24)]
    assert best_labels(logits, OURS)["books"].tolist() == ["positive", "positive"]
    assert seen == [Progress("scoring", 2, 2)]


def test_many_rows_keep_their_order():
    texts = ["good" if i % 3 else "bad" for i in range(700)]
    logits = predict_logits(FakeBackend(default_batch_size=32), {"books": TextRows(texts, None, [])})
    expected = ["positive" if text == "good" else "negative" for text in texts]
    assert best_labels(logits, OURS)["books"].tolist() == expected


def test_accuracy_is_compared_on_the_same_rows():
    rows = {"a": TextRows(["1", "2"], None, ["x", "y"]), "b": TextRows(["3"], None, ["y"])}
    ours = {"a": np.array(["x", "y"]), "b": np.array(["x"])}
    first = {"a": np.array(["x", "x"]), "b": np.array(["y"])}
    assert compare_accuracy(ours, first, rows).accuracy == pytest.approx(0.5 / 2 - 1 / 2)


def test_agreement_counts_the_rows_of_all_domains_alike():
    one = {"a": np.array(["x", "x", "x"]), "b": np.array(["y"])}
    assert agreement(one, {"a": np.array(["x", "y", "x"]), "b": np.array(["x"])}) == 0.5


def spec_of(labels, **entry):
    heads = DomainHeads.build(labels)
    return ModelSpec({"hrkd": entry}, heads, 24, False)


def without_domains(spec, probabilities):
    logits = {domain: np.log(np.array(rows, dtype=np.float32)) for domain, rows in probabilities.items()}
    answers = judge_without_domain(logits, {name: [""] * len(own) for name, own in logits.items()}, spec)
    return tuple({name: own.tolist() for name, own in found.items()} for found in (answers.labels, answers.domains))


def test_labels_without_the_domain_are_those_of_all_domains_if_they_are_the_same():
    spec = spec_of({"a": ["no", "yes"], "b": ["no", "yes"]}, domain_posterior=True)
    rows = {"a": [[0.5, 0.1, 0.1, 0.3], [0.1, 0.2, 0.1, 0.6]], "b": [[0.2, 0.4, 0.35, 0.05]]}
    assert without_domains(spec, rows) == ({"a": ["no", "yes"], "b": ["no"]}, {"a": ["a", "b"], "b": ["a"]})


def test_a_label_of_another_domain_is_wrong_if_domains_have_different_labels():
    spec = spec_of({"a": ["no", "yes"], "b": ["maybe", "yes"]}, domain_posterior=True)
    rows = {"a": [[0.1, 0.5, 0.1, 0.3], [0.1, 0.3, 0.1, 0.5]], "b": [[0.1, 0.3, 0.1, 0.5]]}
    labels = {"a": ["yes", "b/yes"], "b": ["yes"]}
    assert without_domains(spec, rows) == (labels, {"a": ["a", "b"], "b": ["b"]})


def test_no_domains_are_found_by_a_model_that_was_not_trained_to_find_them():
    rows = {"a": [[0.1, 0.9, 0.6, 0.3]]}
    assert without_domains(spec_of({"a": ["no", "yes"], "b": ["no", "yes"]}), rows) == ({"a": ["yes"]}, {})


def test_a_confusion_matrix_of_domains_counted_by_hand():
    found = {"a": np.array(["a", "a", "b", "c"]), "b": np.array(["a", "b"])}
    counts = count_domains(found, ["a", "b", "c"])  # no rows of c
    assert counts == {"a": {"a": 2, "b": 1, "c": 1}, "b": {"a": 1, "b": 1, "c": 0}}
    model = ModelResult("m", "torch", {"a": score_domain(["x"], np.array(["x"]), ["x"])}, 1.0, found_domains=counts)
    assert (model.to_json()["domain_accuracy"], model.to_json()["found_domains"]) == (0.5, counts)
