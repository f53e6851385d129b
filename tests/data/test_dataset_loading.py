import json
from pathlib import Path

import pytest

from hrkd_cli import prepare
from hrkd_cli.data.dataset_folder import open_dataset
from hrkd_cli.data.dataset_loading import load_for_evaluation, load_for_training
from hrkd_cli.errors import DataError, OutputError


@pytest.fixture(autouse=True)
def out(tmp_path, monkeypatch):
    """Where raw data is prepared."""
    monkeypatch.chdir(tmp_path)
    return Path("hrkd-out", "dataset")


@pytest.fixture
def prepared(reviews, tmp_path):
    prepare(reviews, out=tmp_path / "prepared")
    return tmp_path / "prepared"


def edit(folder, **changes):
    path = folder / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_open_dataset_gives_what_was_prepared(prepared):
    dataset = open_dataset(prepared)
    assert dataset.domains == ("books", "dvd")
    assert dataset.labels == {"books": ("bad", "good"), "dvd": ("bad", "good")}
    assert dataset.path == prepared
    assert not dataset.has_pairs
    assert dataset.fingerprint == json.loads((prepared / "dataset.json").read_text())["fingerprint"]
    assert [len(dataset.split("books", split)) for split in ("train", "dev", "test", "all")] == [32, 4, 4, 40]
    rows = dataset.split("dvd", "all")
    assert rows.pairs is None
    assert set(rows.texts) == {f"dvd number {i}" for i in range(40)}
    assert all(
        label == ("bad", "good")[int(t.split()[-1]) % 2] for t, label in zip(rows.texts, rows.labels, strict=True)
    )


def test_open_dataset_with_pairs(tmp_path, jsonl):
    jsonl(tmp_path / "in" / "d.jsonl", [{"text": f"t{i}", "text_pair": f"p{i}", "label": i % 2} for i in range(20)])
    prepare(tmp_path / "in", out=tmp_path / "out")
    dataset = open_dataset(tmp_path / "out")
    rows = dataset.split("d", "all")
    assert dataset.has_pairs
    assert sorted(zip(rows.texts, rows.pairs, strict=True)) == sorted((f"t{i}", f"p{i}") for i in range(20))


def test_open_dataset_says_in_one_line_what_is_wrong(prepared, tmp_path):
    with pytest.raises(DataError, match="nowhere: no such folder"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(DataError, match="not a prepared dataset"):
        open_dataset(tmp_path)
    edit(prepared, version=99)
    with pytest.raises(DataError, match="version 99"):
        open_dataset(prepared)
    edit(prepared, version=1)
    path = prepared / "data" / "books" / "dev.parquet"
    good = path.read_bytes()
    path.write_bytes((prepared / "data" / "books" / "train.parquet").read_bytes())
    with pytest.raises(DataError, match=r"dev.parquet: 32 rows, dataset.json says 4"):
        open_dataset(prepared)
    path.write_bytes(good[:50])
    with pytest.raises(DataError, match=r"dev.parquet: cannot be read") as error:
        open_dataset(prepared)
    assert "\n" not in str(error.value)
    path.unlink()
    with pytest.raises(DataError, match=r"dev.parquet: missing"):
        open_dataset(prepared)
    (prepared / "dataset.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        open_dataset(prepared)


def test_training_opens_a_prepared_folder_as_it_is(prepared, out):
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
def test_training_does_not_take_a_split_with_other_options_for_its_own(reviews, out, options, named):
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


def test_evaluation_keeps_the_splits_that_raw_data_has(tmp_path, jsonl):
    jsonl(tmp_path / "in" / "d.train.jsonl", [{"text": f"t{i}", "label": "a"} for i in range(3)])
    jsonl(tmp_path / "in" / "d.test.jsonl", [{"text": "t0", "label": "b"}])
    jsonl(tmp_path / "in" / "e.train.jsonl", [{"text": "u", "label": "b"}])
    events = []
    dataset = load_for_evaluation(tmp_path / "in", "test", on_event=events.append)
    assert dataset.split("d", "test").texts == ["t0"]
    assert [event.text for event in events if getattr(event, "warning", False)] == [f"{tmp_path}/in: no test rows of e"]
    assert len(load_for_evaluation(tmp_path / "in", "all").split("d", "all")) == 4
    with pytest.raises(DataError, match=r"no dev rows; choose a --split that it has .train, test. or --split all"):
        load_for_evaluation(tmp_path / "in", "dev")


def test_evaluation_of_a_prepared_folder(prepared):
    assert load_for_evaluation(prepared, "dev") == open_dataset(prepared)


def test_equal_rows_have_an_equal_fingerprint_and_others_another(tmp_path, jsonl):
    rows = [{"text": "x", "label": "a"}, {"text": "y", "label": "b"}]
    prints = []
    for name, content in (("one", rows), ("two", rows), ("three", [*rows, {"text": "z", "label": "b"}])):
        jsonl(tmp_path / name / "d.jsonl", content)
        prints.append(load_for_evaluation(tmp_path / name, "test").fingerprint)
    assert prints[0] == prints[1] != prints[2]
