import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from hrkd_cli import prepare
from hrkd_cli.data import dataset_folder
from hrkd_cli.errors import DataError, OutputError, UsageError


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def test_result_and_folder(reviews, tmp_path):
    with (reviews / "books.jsonl").open("a") as file:
        file.write('{"text": "books number 0", "label": "bad"}\n{"text": "", "label": "bad"}\n')
        file.write('{"text": "BOOKS number 1", "label": "bad"}\n')
    out = tmp_path / "deep" / "out"
    result = prepare(reviews, out=out)
    assert result.to_json() == {
        "domains": {
            name: {"train": 32, "dev": 4, "test": 4, "labels": {"bad": 20, "good": 20}} for name in ("books", "dvd")
        },
        "dropped": {"empty text": 1, "duplicate": 1, "duplicate with another label": 1},
    }
    assert result.dropped_lines() == [
        f"not used: 1 row, empty text ({reviews}/books.jsonl:42)",
        f"not used: 1 row, duplicate ({reviews}/books.jsonl:41)",
        f"not used: 1 row, duplicate with another label ({reviews}/books.jsonl:43)",
    ]
    assert files(out) == sorted(
        ["README.md", "dataset.json"]
        + [f"data/{name}/{split}.parquet" for name in ("books", "dvd") for split in ("train", "dev", "test")]
    )
    assert not out.with_name("out.partial").exists()


def test_manifest(reviews, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = prepare("reviews", out="out", seed=7, few_shot=0.5, domains=["dvd", "books"], label="label")
    text = Path("out/dataset.json").read_text()
    manifest = json.loads(text)
    assert str(tmp_path) not in text
    assert manifest["version"] == 1
    assert manifest["seed"] == 7
    assert manifest["source"] == "reviews"
    assert manifest["labels"] == {"books": ["bad", "good"], "dvd": ["bad", "good"]}
    assert manifest["domains"] == result.to_json()["domains"]
    assert manifest["domains"]["books"]["train"] == 16
    assert manifest["fingerprint"] == result.fingerprint
    assert manifest["options"] == {
        "format": "auto",
        "columns": {"label": "label"},
        "dev": 0.1,
        "test": 0.1,
        "few_shot": 0.5,
        "domains": ["books", "dvd"],
        "dedupe": True,
        "encoding": None,
    }
    import hashlib

    data = Path("reviews/books.jsonl").read_bytes()
    assert manifest["sources"][0] == {
        "path": "books.jsonl",
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def test_listed_rows_are_capped_and_counts_are_not(tmp_path, jsonl):
    rows = [{"text": f"t{i}", "label": "ab"[i % 2]} for i in range(10)] + [{"text": "t", "label": None}] * 1200
    jsonl(tmp_path / "in" / "d.jsonl", rows)
    result = prepare(tmp_path / "in", out=tmp_path / "out")
    assert result.dropped == {"no label": 1200}
    dropped = json.loads((tmp_path / "out" / "dataset.json").read_text())["dropped"]["no label"]
    assert dropped["count"] == 1200
    assert len(dropped["rows"]) == 1000
    assert dropped["rows"][0].endswith("d.jsonl:11")
    assert result.dropped_lines()[0].endswith("d.jsonl:13, ...)")


def test_same_seed_same_bytes_and_another_seed_another_split(reviews, tmp_path):
    first = prepare(reviews, out=tmp_path / "a")
    again = prepare(reviews, out=tmp_path / "b")
    other = prepare(reviews, out=tmp_path / "c", seed=1)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    for name in files(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_pandas_and_datasets_open_the_folder(tmp_path, jsonl):
    for domain in ("a", "b=c"):
        rows = [{"text": f"{domain}\u0085{i}", "text_pair": f"p{i}", "label": i % 2} for i in range(20)]
        jsonl(tmp_path / "in" / f"{domain}.jsonl", rows)
    out = tmp_path / "out"
    prepare(tmp_path / "in", out=out)
    frame = pd.read_parquet(out / "data" / "a" / "train.parquet")
    assert list(frame.columns) == ["text", "text_pair", "label", "domain"]
    assert set(frame["label"]) == {"0", "1"}
    assert pq.read_schema(out / "data" / "a" / "train.parquet").types == ["string"] * 4
    code = (
        "import datasets, sys; d = datasets.load_dataset(sys.argv[1]); "
        "print({k: (v.num_rows, v.column_names, sorted(set(v['domain']))) for k, v in d.items()})"
    )
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    shown = subprocess.run([sys.executable, "-c", code, out], env=env, capture_output=True, text=True, check=True)
    columns = ["text", "text_pair", "label", "domain"]
    expected = {k: (n, columns, ["a", "b=c"]) for k, n in (("train", 32), ("dev", 4), ("test", 4))}
    assert shown.stdout.strip() == str(expected)


def test_an_output_that_exists_is_refused_before_anything_is_read(reviews, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(OutputError, match="out exists already; replace it with --force"):
        prepare(tmp_path / "nowhere", out=out)
    prepare(reviews, out=out, force=True)
    with pytest.raises(OutputError, match="--force"):
        prepare(reviews, out=out)
    before = (out / "dataset.json").read_text()
    prepare(reviews, out=out, force=True, seed=9)
    assert (out / "dataset.json").read_text() != before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out", "reviews"]


@pytest.mark.parametrize("content", ["{}", '{"format": "other"}', "not json"])
def test_force_never_replaces_what_is_not_ours(reviews, tmp_path, content):
    write(tmp_path / "out" / "dataset.json", content)
    write(tmp_path / "out" / "thesis.tex", "years of work")
    with pytest.raises(OutputError, match="not a dataset folder written by hrkd"):
        prepare(reviews, out=tmp_path / "out", force=True)
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years of work"
    write(tmp_path / "file", "x")
    with pytest.raises(OutputError, match="not a dataset folder"):
        prepare(reviews, out=tmp_path / "file", force=True)


def test_a_leftover_of_a_killed_run_is_cleared_but_nothing_else(reviews, tmp_path):
    write(tmp_path / "out.partial" / ".hrkd-partial", "")
    write(tmp_path / "out.partial" / "dataset.json", "{")
    prepare(reviews, out=tmp_path / "out")
    assert not (tmp_path / "out.partial").exists()
    write(tmp_path / "two.partial" / "mine.txt", "x")
    with pytest.raises(OutputError, match=r"two.partial exists and was not written by hrkd"):
        prepare(reviews, out=tmp_path / "two")
    assert (tmp_path / "two.partial" / "mine.txt").exists()


def test_a_prepared_folder_can_be_prepared_again_over_itself(reviews, tmp_path):
    out = tmp_path / "out"
    first = prepare(reviews, out=out)
    again = prepare(out, out=out, force=True, few_shot=0.5)
    assert {name: (c.train, c.dev, c.test) for name, c in again.domains.items()} == {
        "books": (16, 4, 4),
        "dvd": (16, 4, 4),
    }
    assert first.fingerprint != again.fingerprint


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("exists", [True, False])
def test_nothing_half_written_is_left(reviews, tmp_path, monkeypatch, error, exists):
    out = tmp_path / "deep" / "out"
    if exists:
        prepare(reviews, out=out)
    before = files(tmp_path)
    update_fingerprint, calls = dataset_folder.update_fingerprint, []

    def fail_late(*rows):
        calls.append(rows)
        if len(calls) == 4:
            raise error
        update_fingerprint(*rows)

    monkeypatch.setattr(dataset_folder, "update_fingerprint", fail_late)
    expected = OutputError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as raised:
        prepare(reviews, out=out, force=True, seed=5)
    if expected is OutputError:
        assert str(raised.value).startswith(f"{out}: the disk is full")
    assert files(tmp_path) == before
    assert (tmp_path / "deep").exists() is exists


def test_a_real_write_error_is_one_line(reviews, tmp_path):
    code = (
        "import sys\nfrom hrkd_cli import prepare\nfrom hrkd_cli.errors import OutputError\n"
        "try:\n    prepare(sys.argv[1], out=sys.argv[2])\nexcept OutputError as error:\n    print(error)\n"
    )
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # noqa: E731
    shown = subprocess.run(
        [sys.executable, "-c", code, reviews, tmp_path / "out"],
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.count("\n") == 1
    assert "out: cannot be written" in shown.stdout
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["reviews"]


def test_an_output_below_a_file_is_one_line(reviews, tmp_path):
    write(tmp_path / "file", "x")
    with pytest.raises(OutputError, match="cannot be"):
        prepare(reviews, out=tmp_path / "file" / "out")


@pytest.mark.parametrize(
    "options",
    [
        {"dev": -0.1},
        {"test": 1.0},
        {"dev": 0.5, "test": 0.5},
        {"dev": float("nan")},
        {"few_shot": 0},
        {"few_shot": 1.5},
        {"domains": []},
        {"domains": "books,,dvd"},
        {"format": "xml"},
    ],
)
def test_options_out_of_range_are_usage_errors(reviews, tmp_path, options):
    with pytest.raises(UsageError, match="--"):
        prepare(reviews, out=tmp_path / "out", **options)


def test_a_domain_of_one_class_is_an_error_that_names_the_way_out(reviews, tmp_path, jsonl):
    jsonl(reviews / "toys.jsonl", [{"text": f"t{i}", "label": "good"} for i in range(9)])
    with pytest.raises(DataError, match=r"domain 'toys' has a single class .'good'.*--domains"):
        prepare(reviews, out=tmp_path / "out")
    assert sorted(prepare(reviews, out=tmp_path / "out", domains=["books", "dvd"]).domains) == ["books", "dvd"]


def test_a_train_split_of_one_class_is_an_error(tmp_path, jsonl):
    jsonl(tmp_path / "in" / "d.train.jsonl", [{"text": f"t{i}", "label": "a"} for i in range(9)])
    jsonl(tmp_path / "in" / "d.test.jsonl", [{"text": f"x{i}", "label": "ab"[i % 2]} for i in range(9)])
    with pytest.raises(DataError, match=r"'d' has a single class in train"):
        prepare(tmp_path / "in", out=tmp_path / "out")


def test_a_domain_swallowed_by_anothers_test_split_is_an_error(tmp_path, jsonl):
    rows = [{"text": f"t{i}", "label": "ab"[i % 2]} for i in range(9)]
    jsonl(tmp_path / "in" / "d.jsonl", rows)
    jsonl(tmp_path / "in" / "e.test.jsonl", rows)
    with pytest.raises(DataError, match="every text of domain 'd' is also in a test or dev split"):
        prepare(tmp_path / "in", out=tmp_path / "out")


def test_gaps_are_noted(tmp_path, jsonl):
    rows = [{"text": f"t{i}", "label": "ab"[i % 2]} for i in range(40)] + [{"text": "rare", "label": "c"}]
    jsonl(tmp_path / "in" / "d.jsonl", rows)
    events = []
    prepare(tmp_path / "in", out=tmp_path / "out", on_event=events.append)
    warnings = [event.text for event in events if getattr(event, "warning", False)]
    assert warnings == ["no dev rows of d/c", "no test rows of d/c"]
    events.clear()
    prepare(tmp_path / "in", out=tmp_path / "out", force=True, dev=0, on_event=events.append)
    assert "no dev rows of d" in [event.text for event in events if getattr(event, "warning", False)]
