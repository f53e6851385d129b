"""Few rows: texts mixed from train texts, and which runs use them."""

import json

import pytest

from hrkd_cli.data.dataset import Dataset, TextRows
from hrkd_cli.distillation import few_rows
from hrkd_cli.distillation.few_rows import augment, more_texts
from hrkd_cli.errors import UsageError
from hrkd_cli.events import Note, ignore
from hrkd_cli.settings import DistillSettings
from short_runs import run_distill
from tiny import make_dataset


def make_rows(texts, pairs=None, labels=None):
    train = TextRows(texts, pairs, labels or ["x", "y"] * (len(texts) // 2))
    return Dataset.from_rows({"books": {"train": train}}, has_pairs=pairs is not None)


def test_words_come_from_the_train_texts_and_texts_differ_from_them():
    dataset = make_dataset()
    made = augment(dataset, 10, seed=1)
    words = {
        word for domain in dataset.domains for text in dataset.split(domain, "train").texts for word in text.split()
    }
    for domain in dataset.domains:
        train, texts = dataset.split(domain, "train").texts, made.rows[domain].texts
        assert 300 < len(texts) <= 480
        assert len(set(texts)) == len(texts)
        assert not set(texts) & set(train)
        assert {word for text in texts for word in text.split()} <= words
    assert made.synthetic


def test_a_splice_is_the_start_of_one_text_and_the_end_of_another(monkeypatch):
    monkeypatch.setattr(few_rows, "DROP", 0.0)
    monkeypatch.setattr(few_rows, "REPLACE", 0.0)
    monkeypatch.setattr(few_rows, "SPLICE", 1.0)
    texts = ["a b c", "1 2  3\n4"]
    starts, ends = ("a", "a b", "1", "1 2", "1 2  3"), (" b c", " c", " 2  3\n4", "  3\n4", "\n4")
    made = augment(make_rows(texts), 100, seed=1).rows["books"].texts
    assert set(made) == {start + end for start in starts for end in ends} - set(texts)


def test_without_any_change_there_are_no_texts(monkeypatch):
    for name in ("DROP", "REPLACE", "SPLICE"):
        monkeypatch.setattr(few_rows, name, 0.0)
    assert augment(make_rows(["a b", "c d"]), 10, seed=1).rows == {}


def test_scripts_without_spaces_are_mixed_by_character():
    made = augment(make_rows(["今日はsunnyです", "明日は雨でしょう"]), 20, seed=1).rows["books"].texts
    assert len(made) > 10
    assert {character for text in made for character in text} == set("今日はsunnyです明日は雨でしょう")
    assert all("sunny" in text or not set("suny") & set(text) for text in made)


def test_both_texts_of_a_pair_are_mixed():
    dataset = make_rows(["a b c", "d e f"], ["1 2 3", "4 5 6"])
    made = augment(dataset, 20, seed=1).rows["books"]
    assert len(made.texts) == len(made.pairs) > 20
    assert len(set(made.pairs)) > 10


def test_the_seed_decides_the_texts():
    dataset = make_dataset()
    first, again, other = (augment(dataset, 2, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.fingerprint == again.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    ("rows", "options", "factor"),
    [
        (100, {}, 10),
        (1000, {}, 3),
        (1001, {}, 0),
        (1001, {"augment": 1}, 1),
        (100, {"augment": 0}, 0),
        (100, {"augment": 25}, 25),
        (100, {"method": "labels"}, 0),
        (100, {"graph": "learned"}, 0),
        (100, {"recipe": "paper"}, 0),
    ],
)
def test_small_data_gets_up_to_ten_texts_a_row(monkeypatch, rows, options, factor):
    asked = []
    monkeypatch.setattr(
        few_rows, "augment", lambda _, factor, seed: asked.append(factor) or augment(dataset, 0, seed=0)
    )
    dataset = make_rows(["a"] * rows, labels=["x"] * rows)
    more_texts(dataset, dataset, DistillSettings.from_options(**options).resolve(), ignore)
    assert (asked or [0]) == [factor]


@pytest.mark.parametrize(("rows", "warnings"), [(1000, []), (1001, ["--unlabelled-share has no effect"])])
def test_a_share_of_unlabeled_texts_without_any_is_warned_of(rows, warnings):
    dataset, events = make_rows(["a text"] * rows, labels=["x"] * rows), []
    more_texts(dataset, dataset, DistillSettings(unlabelled_share=0.3), events.append)
    assert [event.text.partition(":")[0] for event in events if event.warning] == warnings


@pytest.mark.parametrize(("options", "notes"), [({}, 1), ({"augment": 0}, 0)])
def test_a_learned_graph_says_that_it_goes_without_mixed_texts(options, notes):
    dataset, events = make_rows(["a text"] * 100, labels=["x"] * 100), []
    assert more_texts(dataset, dataset, DistillSettings(graph="learned", **options), events.append) is None
    assert [("--graph learned holds back" in event.text) for event in events] == [True] * notes


@pytest.mark.parametrize("options", [{"method": "labels"}, {"graph": "learned"}, {"unlabelled": "texts"}])
def test_options_that_exclude_it_are_named(options):
    with pytest.raises(UsageError, match="--augment: it excludes --unlabelled"):
        DistillSettings.from_options(augment=2, **options)


def test_a_student_learns_from_them_and_says_so(tmp_path, teacher, dataset):
    result, events = run_distill(teacher, dataset, tmp_path / "s", augment=2)
    note = next(event.text for event in events if isinstance(event, Note) and "--augment" in event.text)
    assert note.startswith("the teacher also answers for ")
    assert note.endswith(" texts mixed from the 96 train rows (--augment)")
    record = json.loads((tmp_path / "s" / "hrkd.json").read_text())
    assert record["data"]["unlabelled"]["synthetic"] is True
    assert result.steps == 6
