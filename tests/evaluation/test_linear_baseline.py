"""The linear baselines on data whose scores are known in advance."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from transformers import AutoModel, AutoTokenizer

from hrkd_cli import evaluate, prepare
from hrkd_cli.command_settings import EvalSettings
from hrkd_cli.data.dataset import TextRows
from hrkd_cli.errors import DataError, UsageError
from hrkd_cli.evaluation import linear_baseline
from hrkd_cli.evaluation.evaluate import evaluate_on
from hrkd_cli.evaluation.linear_baseline import (
    FrozenEncoderFeatures,
    TfidfFeatures,
    baseline_dev_scores,
    sampled_rows,
    train_linear_baseline,
)
from hrkd_cli.evaluation.scoring import select_split
from hrkd_cli.events import Note, Progress, ignore
from hrkd_cli.models.fingerprint import model_fingerprint
from tiny import make_dataset as make_trainable_dataset
from tiny import write_encoder
from tiny_folder import LABELS, make_dataset, write_csv, write_model

NAMES = ["negative", "positive"]
WORD = {"negative": "poor", "positive": "fine"}


def texts_of(words, count, start=0):
    """Return texts whose label follows from one word; the other words are the same or unique numbers."""
    labels = [NAMES[n % 2] for n in range(count)]
    return [f"it was {words[label]} {n}" for n, label in enumerate(labels, start)], labels


def separable(**splits):
    return make_dataset({d: {s: texts_of(WORD, n, 100 * i) for i, (s, n) in enumerate(splits.items())} for d in LABELS})


def baseline_of(dataset, split="test", *, train_data=None, on_event=ignore):
    rows = select_split(dataset, split, "x")
    return train_linear_baseline(TfidfFeatures(), train_data or dataset, rows, "x", on_event)


def labels_of(dataset, split="test"):
    return {domain: found.tolist() for domain, found in baseline_of(dataset, split).labels.items()}


def test_a_word_that_determines_the_label_is_learned():
    dataset = separable(train=20, dev=4, test=10)
    for split in ("dev", "test"):
        assert labels_of(dataset, split) == {d: dataset.split(d, split).labels for d in LABELS}


def test_the_baseline_is_the_last_result(models):
    dataset = separable(train=20, test=10)
    result = evaluate_on([models / "teacher"], dataset, EvalSettings(floor=True))
    teacher, baseline = result.models
    assert (baseline.average.accuracy, baseline.average.macro_f1) == (1, 1)
    # Correct on every row, so it agrees with the teacher wherever the teacher is correct.
    assert baseline.agreement == pytest.approx(teacher.average.accuracy)
    assert baseline.domains["books"].interval == pytest.approx((0.7225, 1), abs=1e-4)  # Wilson, 10 of 10
    entry = json.loads(json.dumps(result.to_json()))["models"][1]
    # 7 features without numbers ("it", "was", "poor", "fine", "it was", "was poor", "was fine"), and for each of the 20
    # numbers the number and its pair with the word before it. Both domains have the same texts.
    assert entry["floor"] == {"train_rows": 40, "words": 7 + 2 * 20, "regularisation": 4.0}
    assert {name: entry[name] for name in ("model", "kind", "file", "precision", "parameters", "bytes")} == {
        "model": "tf-idf + logistic regression",
        "kind": "floor",
        "file": None,
        "precision": None,
        "parameters": None,
        "bytes": None,
    }
    assert set(entry) == {"floor", "domains", "average", "agreement", "difference", *list(entry)[:6]}
    assert len(evaluate_on([models / "teacher"], dataset, EvalSettings()).models) == 1


def test_swapped_train_labels_give_swapped_predictions():
    dataset = separable(train=20, test=10)
    for parts in dataset.rows.values():
        train = parts["train"]
        parts["train"] = TextRows(train.texts, None, [NAMES[name == "negative"] for name in train.labels])
    wrong = {d: [NAMES[n == "negative"] for n in dataset.split(d, "test").labels] for d in LABELS}
    assert labels_of(dataset) == wrong


def test_equal_texts_give_one_label():
    rows = {"train": (["a b"] * 20, NAMES * 10), "test": (["a b"] * 10, NAMES * 5)}
    found = labels_of(make_dataset({"books": rows}))["books"]
    assert len(set(found)) == 1  # either is correct for five of ten


def test_texts_are_not_truncated():
    rows = {s: ([f"{'word ' * 600}{WORD[n]}" for n in NAMES * 10], NAMES * 10) for s in ("train", "test")}
    assert labels_of(make_dataset({"books": rows}))["books"] == NAMES * 10


def test_domains_with_equal_labels_share_a_model():
    # dvd has no train rows of its own; the model trained on books predicts its rows.
    rows = {"books": {"train": texts_of(WORD, 20)}, "dvd": {"test": texts_of(WORD, 10)}}
    assert labels_of(make_dataset(rows)) == {"dvd": NAMES * 5}


def test_a_domain_without_train_rows_is_refused_if_labels_differ():
    rows = {"books": {"train": texts_of(WORD, 20)}, "news": {"train": (["a", "b"], ["old", "new"])}}
    new = select_split(make_dataset({"toys": {"test": texts_of(WORD, 4)}}), "test", "x")
    with pytest.raises(DataError, match="x: no train rows of toys for --floor"):
        train_linear_baseline(TfidfFeatures(), make_dataset(rows), new, "x", ignore)


def test_domains_with_different_labels_have_separate_models():
    swapped = {"old": "fine", "new": "poor"}
    texts = [f"{swapped[name]} {n}" for n, name in enumerate(["old", "new"] * 10)]
    rows = {
        "books": {"train": texts_of(WORD, 20), "test": texts_of(WORD, 4)},
        "news": {"train": (texts, ["old", "new"] * 10), "test": (["so fine", "so poor"], ["old", "new"])},
        "void": {"train": (["a", "b"], ["only", "only"]), "test": (["c"], ["only"])},
    }
    events = []
    dataset = make_dataset(rows)
    baseline = baseline_of(dataset, on_event=events.append)
    assert {domain: found.tolist() for domain, found in baseline.labels.items()} == {
        "books": NAMES * 2,
        "news": ["old", "new"],
        "void": ["only"],
    }
    assert [e.task for e in events if e == Progress(e.task)] == [
        "training tf-idf + logistic regression on 20 rows of books",
        "training tf-idf + logistic regression on 20 rows of news",
        "training tf-idf + logistic regression on 2 rows of void",
    ]
    assert baseline.rows == 42


def test_it_trains_on_all_domains_when_only_one_is_scored():
    whole = separable(train=20, test=10)
    baseline = baseline_of(whole.select_domains("books"), train_data=whole)
    assert (list(baseline.labels), baseline.rows) == (["books"], 40)


def test_the_texts_of_a_pair_have_separate_features():
    # "fine" means positive in the first text and negative in the second; every row has the same words.
    def rows(count):
        names = [NAMES[n % 2] for n in range(count)]
        return TextRows([WORD[n] for n in names], [WORD[NAMES[n == "negative"]] for n in names], names)

    single = make_dataset({"books": {"train": ([], []), "test": ([], [])}})
    dataset = replace(
        single, has_pairs=True, labels={"books": tuple(NAMES)}, rows={"books": {"train": rows(20), "test": rows(10)}}
    )
    baseline = baseline_of(dataset)
    assert baseline.labels["books"].tolist() == NAMES * 5
    assert baseline.num_features == 4
    # If the second texts have no words, the first texts still count.
    for part in dataset.rows["books"].values():
        part.pairs[:] = ["!"] * len(part)
    assert labels_of(dataset)["books"] == NAMES * 5


def test_training_is_deterministic():
    dataset = separable(train=30, test=10)
    for parts in dataset.rows.values():  # labels that do not depend on the words
        train = parts["train"]
        parts["train"] = TextRows(train.texts, None, sorted(train.labels))
    assert labels_of(dataset) == labels_of(dataset)


def test_with_many_rows_words_of_a_single_text_do_not_count():
    texts, labels = texts_of(WORD, 1000)
    dataset = make_dataset({"books": {"train": (texts, labels), "test": (texts[:4], labels[:4])}})
    assert baseline_of(dataset).num_features == 7


def test_data_that_it_cannot_train_on_is_an_error(models, tmp_path):
    dataset = separable(test=10)
    source = write_csv(tmp_path / "reviews.csv", dataset, "test")
    with pytest.raises(DataError, match=r"reviews\.csv: no train rows for --floor; use data") as caught:
        evaluate([models / "teacher"], data=source, floor=True)
    assert "\n" not in str(caught.value)
    for split in ("train", "all"):
        with pytest.raises(UsageError, match=f"--floor trains on the train split, which --split {split} scores"):
            evaluate([models / "teacher"], data=source, split=split, floor=True)
    without_train = {"test": (["x"], ["z"])}
    dataset = make_dataset({"a": {"train": texts_of(WORD, 4), "test": texts_of(WORD, 2)}, "b": without_train})
    with pytest.raises(DataError, match="no train rows of b for --floor"):
        labels_of(dataset)
    silent = make_dataset({"a": {"train": (["!", "?"], NAMES), "test": (["."], NAMES[:1])}})
    with pytest.raises(DataError, match="no words in the train texts"):
        labels_of(silent)


def test_the_split_column_of_a_file_is_used(tmp_path):
    model = write_model(tmp_path / "model")
    lines = ["text,label,domain,split"]
    for split, count in (("train", 20), ("test", 10)):
        lines += [f"{text} {split},{name},books,{split}" for text, name in zip(*texts_of(WORD, count), strict=True)]
    (tmp_path / "reviews.csv").write_text("\n".join(lines) + "\n")
    result = evaluate([model], data=tmp_path / "reviews.csv", floor=True)
    assert result.models[1].average.accuracy == 1


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("encoder") / "tiny")


def test_frozen_features_are_the_mean_over_a_texts_own_tokens(encoder):
    texts = ["good", "a very lovely box", "it was the thing for my box and this one"]
    columns = FrozenEncoderFeatures(encoder, device="cpu").inputs(TextRows(texts, None, NAMES[:1] * 3))
    model, tokenizer = AutoModel.from_pretrained(encoder).eval(), AutoTokenizer.from_pretrained(encoder)
    with torch.inference_mode():
        alone = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state.mean(1)[0].numpy() for text in texts]
    assert columns == pytest.approx(np.array(alone), abs=1e-5)


def test_frozen_features_of_an_encoder_with_few_positions_and_no_padding_token(tmp_path):
    folder = write_encoder(tmp_path / "short")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps({k: v for k, v in config.items() if k not in ("pad_token", "model_max_length")})
    )
    features = FrozenEncoderFeatures(folder, device="cpu")
    positions = features.model.config.max_position_embeddings
    assert features.tokenizer.max_length == positions < 256
    rows = TextRows(["box " * (positions + 9), "box"], None, NAMES[:1] * 2)
    assert np.isfinite(features.inputs(rows)).all()


def test_frozen_features_of_a_pair_read_both_texts(encoder):
    features = FrozenEncoderFeatures(encoder, device="cpu")
    one, other = (features.inputs(TextRows(["a box"], [second], NAMES[:1])) for second in ("fine", "poor"))
    assert abs(one - other).max() > 1e-3


def test_the_baseline_on_a_frozen_encoder_is_scikit_learns_logistic_regression(encoder):
    dataset = separable(train=20, test=10)
    features = FrozenEncoderFeatures(encoder, device="cpu")
    baseline = train_linear_baseline(features, dataset, select_split(dataset, "test", "x"), "x", ignore)
    train, test = (
        [TextRows(dataset.split(d, split).texts, None, dataset.split(d, split).labels) for d in LABELS]
        for split in ("train", "test")
    )
    matrix = np.concatenate([features.inputs(part) for part in train])
    scaler = StandardScaler().fit(matrix)
    model = LogisticRegression(C=16 / 32, tol=1e-6, max_iter=1000)
    model.fit(scaler.transform(matrix), [name for part in train for name in part.labels])
    for domain, part in zip(LABELS, test, strict=True):
        assert baseline.labels[domain].tolist() == model.predict(scaler.transform(features.inputs(part))).tolist()
    assert baseline.features.baseline == "frozen tiny + logistic regression"
    assert baseline.to_json() == {"train_rows": 40, "width": 32, "regularisation": 16.0}


def run_file(folder, **entries):
    path = folder / "hrkd.json"
    path.write_text(json.dumps(entries))


def test_the_frozen_encoder_is_the_one_that_the_students_teacher_started_from(tmp_path, encoder):
    teacher, student = write_model(tmp_path / "teacher"), write_model(tmp_path / "student")
    run_file(teacher, models={"start": {"name": str(encoder)}})
    run_file(student, models={"teacher": {"name": str(teacher), "fingerprint": model_fingerprint(teacher)}})
    dataset = separable(train=20, test=10)
    for models in ([student], [teacher, student]):
        result = evaluate_on(models, dataset, EvalSettings(floor=True, device="cpu"))
        assert [model.model for model in result.models[-2:]] == [
            "tf-idf + logistic regression",
            "frozen tiny + logistic regression",
        ]


def test_without_a_frozen_encoder_a_note_says_why(tmp_path, encoder):
    student = write_model(tmp_path / "student")
    dataset = separable(train=20, test=10)

    def notes():
        events = []
        result = evaluate_on([student], dataset, EvalSettings(floor=True), on_event=events.append)
        assert [model.kind for model in result.models] == ["torch", "floor"]
        return [event.text for event in events if isinstance(event, Note) and event.text.startswith("no baseline")]

    assert notes() == ["no baseline on a frozen encoder: it is not known which one the teacher was fine-tuned from"]
    run_file(student, models={"teacher": {"name": str(tmp_path / "gone")}})
    assert len(notes()) == 1
    itself = {"name": str(student), "fingerprint": model_fingerprint(student)}
    run_file(student, models={"teacher": itself})  # retrained from itself
    assert len(notes()) == 1
    run_file(student, models={"start": {"name": str(tmp_path / "gone")}})
    assert notes() == [f"no baseline on the frozen encoder: model {tmp_path / 'gone'}: no such folder"]


def test_data_without_train_rows_is_compared_on_the_train_rows_that_the_model_was_made_from(tmp_path):
    dataset = separable(train=20, test=10)
    for split in ("train", "test"):
        write_csv(tmp_path / f"{split}.csv", dataset, split)
    (tmp_path / "raw").mkdir()
    (tmp_path / "train.csv").rename(tmp_path / "raw" / "reviews.csv")
    prepare(tmp_path / "raw", out=tmp_path / "dataset", dev=0.2, test=0)
    student = write_model(tmp_path / "student")
    run_file(student, data={"path": "../dataset", "fingerprint": None})
    events = []
    result = evaluate([student], data=tmp_path / "test.csv", floor=True, on_event=events.append)
    floor = result.models[-1]
    assert floor.average.accuracy == 1
    assert any("--floor uses the train rows of" in e.text for e in events if isinstance(e, Note))


@pytest.fixture
def teacher(tmp_path):
    """A teacher's folder that says which encoder it started from."""
    folder, encoder = write_model(tmp_path / "teacher"), write_encoder(tmp_path / "tiny")
    (folder / "hrkd.json").write_text(json.dumps({"models": {"start": {"name": str(encoder)}}}))
    return folder


def test_both_baselines_are_scored_on_dev(teacher):
    scores = baseline_dev_scores(make_trainable_dataset(), teacher, "cpu", ignore)
    assert list(scores) == ["tf-idf + logistic regression", "frozen tiny + logistic regression"]
    assert scores["tf-idf + logistic regression"] == 1  # the words decide
    assert 0.5 <= scores["frozen tiny + logistic regression"] <= 1


def test_the_score_is_the_mean_over_domains(teacher):
    dataset = make_trainable_dataset()
    dev = dataset.rows["books"]["dev"]
    other = {"bad": "good", "good": "bad"}
    dataset.rows["books"]["dev"] = TextRows(dev.texts, None, [other[label] for label in dev.labels])
    assert baseline_dev_scores(dataset, teacher, "cpu", ignore)["tf-idf + logistic regression"] == 0.5


def test_texts_without_words_are_reported_and_not_an_error(teacher):
    dataset, events = make_trainable_dataset(), []
    for parts in dataset.rows.values():
        parts["train"] = TextRows(["!"] * 48, None, parts["train"].labels)
    assert baseline_dev_scores(dataset, teacher, "cpu", events.append) == {}
    notes = [event.text for event in events if isinstance(event, Note)]
    assert any("not compared with linear baselines: the data: no words" in text for text in notes)


def test_no_failure_of_a_baseline_ends_the_run(teacher, monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("out of memory\nat some place")

    monkeypatch.setattr(linear_baseline, "train_linear_baselines", fail)
    events = []
    assert baseline_dev_scores(make_trainable_dataset(), teacher, "cpu", events.append) == {}
    assert events[-1] == Note("not compared with linear baselines: out of memory", warning=True)


def test_a_sample_of_large_data_has_all_labels_even_if_they_alternate(monkeypatch):
    monkeypatch.setattr(linear_baseline, "DEV_SCORE_ROWS", 48)
    dataset = make_trainable_dataset(train=48)  # 96 rows of two domains
    whole, rows = dataset.rows["books"]["train"], sampled_rows(dataset, "books", "train")
    assert set(whole.labels[::2]) != set(whole.labels) == set(rows.labels)
    assert len(rows) == 24
    label_of = dict(zip(whole.texts, whole.labels, strict=True))
    assert rows.labels == [label_of[text] for text in rows.texts]
    assert rows.texts == [text for text in whole.texts if text in rows.texts]  # in order
    assert sampled_rows(dataset, "books", "train") == rows
    assert len(sampled_rows(dataset, "books", "dev")) == 16
