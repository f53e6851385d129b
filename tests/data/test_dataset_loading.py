from pathlib import Path

import pytest

from hrkd_cli import prepare
from hrkd_cli.data.dataset_folder import open_dataset
from hrkd_cli.data.dataset_loading import load_for_evaluation, load_for_training
from hrkd_cli.errors import OutputError


@pytest.fixture(autouse=True)
def out(tmp_path, monkeypatch):
    """The folder into which raw data is prepared."""
    monkeypatch.chdir(tmp_path)
    return Path("hrkd-out", "dataset")


def test_training_opens_a_prepared_folder_without_preparing_it_again(prepared, out):
    dataset = load_for_training(prepared)
    assert dataset.path == prepared
    assert not out.exists()


def test_training_prepares_raw_data_once(reviews, out):
    notes = []
    first = load_for_training(reviews, on_event=notes.append)
    stamp = (out / "dataset.json").stat().st_mtime_ns
    again = load_for_training(reviews, on_event=notes.append)
    assert first == again
    assert first.path == out
    assert (out / "dataset.json").stat().st_mtime_ns == stamp
    assert f"using {out}, prepared before from {reviews}" in [getattr(note, "text", "") for note in notes]


def test_training_does_not_replace_other_data_unless_told(reviews, out, jsonl):
    first = load_for_training(reviews)
    jsonl(reviews / "toys.jsonl", [{"text": f"t{i}", "label": i % 2} for i in range(20)])
    with pytest.raises(
        OutputError, match=r"was made from other data; use it with --data hrkd-out/dataset, or replace it with --force"
    ):
        load_for_training(reviews)
    assert open_dataset(out) == first
    assert load_for_training(reviews, force=True).domains == ("books", "dvd", "toys")


@pytest.mark.parametrize(("options", "named"), [({"few_shot": 0.5}, "few_shot"), ({"seed": 1}, "seed")])
def test_training_does_not_reuse_a_dataset_with_other_options(reviews, out, options, named):
    prepare(reviews, out=out, **options)
    with pytest.raises(OutputError, match=rf"was prepared with other options .{named}."):
        load_for_training(reviews)


def test_training_does_not_touch_a_foreign_folder(reviews, out):
    out.mkdir(parents=True)
    (out / "mine").write_text("x")
    for force in (False, True):
        with pytest.raises(OutputError):
            load_for_training(reviews, force=force)
    assert (out / "mine").exists()


@pytest.mark.parametrize("split", ["train", "dev", "test", "all"])
def test_evaluation_takes_all_of_raw_data_without_splits(tmp_path, jsonl, split):
    rows = [{"text": "same", "label": "a"}, {"text": "same", "label": "a"}, {"text": " ", "label": "a"}]
    path = jsonl(tmp_path / "in" / "d.jsonl", rows)
    events = []
    dataset = load_for_evaluation(tmp_path / "in", split, on_event=events.append)
    assert dataset.split("d", split).texts == ["same", "same"]
    assert dataset.labels == {"d": ("a",)}
    assert dataset.path is None
    assert f"not used: 1 row, empty text ({path}:3)" in [getattr(e, "text", "") for e in events]
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["d.jsonl", "in"]


def test_evaluation_keeps_the_splits_of_raw_data(tmp_path, jsonl):
    jsonl(tmp_path / "in" / "d.train.jsonl", [{"text": f"t{i}", "label": "a"} for i in range(3)])
    jsonl(tmp_path / "in" / "d.test.jsonl", [{"text": "t0", "label": "b"}])
    jsonl(tmp_path / "in" / "e.train.jsonl", [{"text": "u", "label": "b"}])
    dataset = load_for_evaluation(tmp_path / "in", "test")
    assert dataset.split("d", "test").texts == ["t0"]
    assert len(load_for_evaluation(tmp_path / "in", "all").split("d", "all")) == 4


def test_evaluation_of_a_prepared_folder(prepared):
    assert load_for_evaluation(prepared, "dev") == open_dataset(prepared)


@pytest.mark.parametrize("source", ["reviews", "prepared"])
def test_evaluation_knows_the_file_and_line_of_each_row(source, reviews, prepared):
    dataset = load_for_evaluation({"reviews": reviews, "prepared": prepared}[source])
    for domain in ("books", "dvd"):
        rows = dataset.split(domain, "all")
        numbers = [int(text.split()[-1]) + 1 for text in rows.texts]
        assert sorted(numbers) == list(range(1, 41))
        assert rows.locations == [f"{reviews / domain}.jsonl:{number}" for number in numbers]


def test_training_does_not_read_the_locations(prepared):
    assert load_for_training(prepared).split("books", "all").locations == []
