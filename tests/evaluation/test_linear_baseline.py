"""The linear floor: scores that can be known beforehand, what it learns from, and what it refuses."""

import json
from dataclasses import replace

import pytest

from hrkd_cli import evaluate
from hrkd_cli.command_settings import EvalSettings
from hrkd_cli.data.dataset import TextRows
from hrkd_cli.errors import DataError, UsageError
from hrkd_cli.evaluation.evaluate import evaluate_on
from hrkd_cli.evaluation.linear_baseline import train_linear_baseline
from hrkd_cli.evaluation.scoring import select_split
from hrkd_cli.events import Note, ignore
from tiny_folder import LABELS, make_dataset, write_csv, write_model

NAMES = ["negative", "positive"]
WORD = {"negative": "poor", "positive": "fine"}


def texts_of(words, count, start=0):
    """Texts that a word of their label decides, among numbers that decide nothing."""
    labels = [NAMES[n % 2] for n in range(count)]
    return [f"it was {words[label]} {n}" for n, label in enumerate(labels, start)], labels


def separable(**splits):
    return make_dataset({d: {s: texts_of(WORD, n, 100 * i) for i, (s, n) in enumerate(splits.items())} for d in LABELS})


def floor_of(dataset, split="test", *, learn_from=None, on_event=ignore):
    return train_linear_baseline(learn_from or dataset, select_split(dataset, split, "x"), split, "x", on_event)


def labels_of(dataset, split="test"):
    return {domain: found.tolist() for domain, found in floor_of(dataset, split).labels.items()}


def test_a_word_that_decides_is_found():
    dataset = separable(train=20, dev=4, test=10)
    for split in ("dev", "test"):
        assert labels_of(dataset, split) == {d: dataset.split(d, split).labels for d in LABELS}


def test_the_floor_beside_a_model(models):
    dataset = separable(train=20, test=10)
    result = evaluate_on([models / "teacher"], dataset, EvalSettings(floor=True))
    teacher, floor = result.models
    assert (floor.average.accuracy, floor.average.macro_f1) == (1, 1)
    # Right on every row, so it agrees with the teacher where that is right.
    assert floor.agreement == pytest.approx(teacher.average.accuracy)
    assert floor.domains["books"].interval == pytest.approx((0.7225, 1), abs=1e-4)  # Wilson, 10 of 10
    entry = json.loads(json.dumps(result.to_json()))["models"][1]
    # "it", "was", "it was", two words and "was poor", "was fine", and of each of the 20 numbers the number itself, and
    # its pair with the word before it; both domains have the same texts.
    assert entry["floor"] == {"train_rows": 40, "words": 7 + 2 * 20, "regularisation": 4.0}
    assert {name: entry[name] for name in ("model", "kind", "file", "precision", "parameters", "bytes")} == {
        "model": "tf-idf + logistic regression",
        "kind": "floor",
        "file": None,
        "precision": None,
        "parameters": None,
        "bytes": None,
    }
    assert set(entry) == {"floor", "domains", "average", "agreement", *list(entry)[:6]}
    assert len(evaluate_on([models / "teacher"], dataset, EvalSettings()).models) == 1


def test_labels_turned_round_in_train_are_learnt_turned_round():
    dataset = separable(train=20, test=10)
    for parts in dataset.rows.values():
        train = parts["train"]
        parts["train"] = TextRows(train.texts, None, [NAMES[name == "negative"] for name in train.labels])
    wrong = {d: [NAMES[n == "negative"] for n in dataset.split(d, "test").labels] for d in LABELS}
    assert labels_of(dataset) == wrong


def test_texts_that_say_nothing_give_chance():
    rows = {"train": (["a b"] * 20, NAMES * 10), "test": (["a b"] * 10, NAMES * 5)}
    found = labels_of(make_dataset({"books": rows}))["books"]
    assert len(set(found)) == 1  # five of ten are right, whichever it is


def test_texts_are_read_whole():
    rows = {s: ([f"{'word ' * 600}{WORD[n]}" for n in NAMES * 10], NAMES * 10) for s in ("train", "test")}
    assert labels_of(make_dataset({"books": rows}))["books"] == NAMES * 10


def test_domains_with_equal_labels_share_a_model():
    # dvd has no train rows of its own; what books teaches serves it.
    rows = {"books": {"train": texts_of(WORD, 20)}, "dvd": {"test": texts_of(WORD, 10)}}
    assert labels_of(make_dataset(rows)) == {"dvd": NAMES * 5}


def test_domains_with_other_labels_have_models_of_their_own():
    swapped = {"old": "fine", "new": "poor"}
    texts = [f"{swapped[name]} {n}" for n, name in enumerate(["old", "new"] * 10)]
    rows = {
        "books": {"train": texts_of(WORD, 20), "test": texts_of(WORD, 4)},
        "news": {"train": (texts, ["old", "new"] * 10), "test": (["so fine", "so poor"], ["old", "new"])},
        "void": {"train": (["a", "b"], ["only", "only"]), "test": (["c"], ["only"])},
    }
    events = []
    dataset = make_dataset(rows)
    floor = floor_of(dataset, on_event=events.append)
    assert {domain: found.tolist() for domain, found in floor.labels.items()} == {
        "books": NAMES * 2,
        "news": ["old", "new"],
        "void": ["only"],
    }
    assert [e.text for e in events if isinstance(e, Note)] == [
        "training the linear floor on 20 rows of books",
        "training the linear floor on 20 rows of news",
        "training the linear floor on 2 rows of void",
    ]
    assert floor.rows == 42


def test_beside_a_baked_head_it_learns_from_all_domains():
    whole = separable(train=20, test=10)
    floor = floor_of(whole.select_domains("books"), learn_from=whole)
    assert (list(floor.labels), floor.rows) == (["books"], 40)


def test_the_same_word_in_the_two_texts_of_a_pair_is_two_things():
    # "fine" in the first text means positive, in the second negative: together the words are the same in every row.
    def rows(count):
        names = [NAMES[n % 2] for n in range(count)]
        return TextRows([WORD[n] for n in names], [WORD[NAMES[n == "negative"]] for n in names], names)

    single = make_dataset({"books": {"train": ([], []), "test": ([], [])}})
    dataset = replace(
        single, has_pairs=True, labels={"books": tuple(NAMES)}, rows={"books": {"train": rows(20), "test": rows(10)}}
    )
    floor = floor_of(dataset)
    assert floor.labels["books"].tolist() == NAMES * 5
    assert floor.words == 4
    # Second texts without a word leave the first ones.
    for part in dataset.rows["books"].values():
        part.pairs[:] = ["!"] * len(part)
    assert labels_of(dataset)["books"] == NAMES * 5


def test_it_is_the_same_every_time():
    dataset = separable(train=30, test=10)
    for parts in dataset.rows.values():  # labels that no word explains
        train = parts["train"]
        parts["train"] = TextRows(train.texts, None, sorted(train.labels))
    assert labels_of(dataset) == labels_of(dataset)


def test_many_rows_leave_out_words_of_one_text():
    texts, labels = texts_of(WORD, 1000)
    dataset = make_dataset({"books": {"train": (texts, labels), "test": (texts[:4], labels[:4])}})
    assert floor_of(dataset).words == 7


def test_what_it_cannot_learn_from(models, tmp_path):
    dataset = separable(test=10)
    source = write_csv(tmp_path / "reviews.csv", dataset, "test")
    with pytest.raises(DataError, match=r"reviews\.csv: no train rows for --floor to learn from") as caught:
        evaluate([models / "teacher"], data=source, floor=True)
    assert "\n" not in str(caught.value)
    for split in ("train", "all"):
        with pytest.raises(UsageError, match=f"--floor: it learns from the train split, which --split {split} scores"):
            evaluate([models / "teacher"], data=source, split=split, floor=True)
    unlike = make_dataset({"a": {"train": texts_of(WORD, 4), "test": texts_of(WORD, 2)}, "b": {"test": (["x"], ["z"])}})
    with pytest.raises(DataError, match="no train rows of b for --floor"):
        labels_of(unlike)
    silent = make_dataset({"a": {"train": (["!", "?"], NAMES), "test": (["."], NAMES[:1])}})
    with pytest.raises(DataError, match="no word in the train texts"):
        labels_of(silent)


def test_a_split_of_a_file_with_splits_of_its_own(tmp_path):
    model = write_model(tmp_path / "model")
    lines = ["text,label,domain,split"]
    for split, count in (("train", 20), ("test", 10)):
        lines += [f"{text} {split},{name},books,{split}" for text, name in zip(*texts_of(WORD, count), strict=True)]
    (tmp_path / "reviews.csv").write_text("\n".join(lines) + "\n")
    result = evaluate([model], data=tmp_path / "reviews.csv", floor=True)
    assert result.models[1].average.accuracy == 1
