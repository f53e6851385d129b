"""Dev accuracy of the linear baselines, which a student is compared with after training."""

import json

import pytest

from hrkd_cli.data.dataset import TextRows
from hrkd_cli.evaluation import baseline_scores
from hrkd_cli.evaluation.baseline_scores import baseline_dev_scores, sampled_rows
from hrkd_cli.events import Note, ignore
from tiny import make_dataset, write_encoder
from tiny_folder import write_model


@pytest.fixture
def teacher(tmp_path):
    """A teacher's folder that says which encoder it started from."""
    folder, encoder = write_model(tmp_path / "teacher"), write_encoder(tmp_path / "tiny")
    (folder / "hrkd.json").write_text(json.dumps({"models": {"start": {"name": str(encoder)}}}))
    return folder


def test_both_baselines_are_scored_on_dev(teacher):
    scores = baseline_dev_scores(make_dataset(), teacher, "cpu", ignore)
    assert list(scores) == ["tf-idf + logistic regression", "frozen tiny + logistic regression"]
    assert scores["tf-idf + logistic regression"] == 1  # the words decide
    assert 0.5 <= scores["frozen tiny + logistic regression"] <= 1


def test_the_score_is_the_mean_over_domains(teacher):
    dataset = make_dataset()
    dev = dataset.rows["books"]["dev"]
    other = {"bad": "good", "good": "bad"}
    dataset.rows["books"]["dev"] = TextRows(dev.texts, None, [other[label] for label in dev.labels])
    assert baseline_dev_scores(dataset, teacher, "cpu", ignore)["tf-idf + logistic regression"] == 0.5


def test_texts_without_words_are_reported_and_not_an_error(teacher):
    dataset, events = make_dataset(), []
    for parts in dataset.rows.values():
        parts["train"] = TextRows(["!"] * 48, None, parts["train"].labels)
    assert baseline_dev_scores(dataset, teacher, "cpu", events.append) == {}
    notes = [event.text for event in events if isinstance(event, Note)]
    assert any("not compared with linear baselines: the data: no words" in text for text in notes)


def test_no_failure_of_a_baseline_ends_the_run(teacher, monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("out of memory\nat some place")

    monkeypatch.setattr(baseline_scores, "train_linear_baselines", fail)
    events = []
    assert baseline_dev_scores(make_dataset(), teacher, "cpu", events.append) == {}
    assert events[-1] == Note("not compared with linear baselines: out of memory", warning=True)


def test_a_sample_of_large_data_has_all_labels_even_if_they_alternate(monkeypatch):
    monkeypatch.setattr(baseline_scores, "MAX_ROWS", 48)
    dataset = make_dataset(train=48)  # 96 rows of two domains
    whole, rows = dataset.rows["books"]["train"], sampled_rows(dataset, "books", "train")
    assert set(whole.labels[::2]) != set(whole.labels) == set(rows.labels)
    assert len(rows) == 24
    label_of = dict(zip(whole.texts, whole.labels, strict=True))
    assert rows.labels == [label_of[text] for text in rows.texts]
    assert rows.texts == [text for text in whole.texts if text in rows.texts]  # in order
    assert sampled_rows(dataset, "books", "train") == rows
    assert len(sampled_rows(dataset, "books", "dev")) == 16
