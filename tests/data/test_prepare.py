import errno
import hashlib
import json
import random
import resource
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from hrkd_cli import prepare
from hrkd_cli.data import prepare as prepare_module
from hrkd_cli.data.dataset_folder import open_dataset
from hrkd_cli.errors import DataError, OutputError, UsageError
from hrkd_cli.events import Progress
from hrkd_cli.layout import SPLITS
from source_rows import write_file


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_the_result_counts_rows_and_the_folder_has_one_file_per_domain_and_split(reviews, tmp_path):
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
        "characters": {
            "books": {"median": 15, "p95": 15, "max": 15},
            "dvd": {"median": 13, "p95": 13, "max": 13},
        },
        "findings": [
            {
                "kind": "label conflicts",
                "message": "1 text with several labels, of which at most one is right; correct them",
                "count": 2,
                "rows": (f"{reviews}/books.jsonl:43 and {reviews}/books.jsonl:2",),
                "warning": True,
            }
        ],
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


def test_the_manifest_records_options_counts_and_source_checksums(reviews, tmp_path, monkeypatch):
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
        "one_domain": None,
        "no_header": False,
        "rename_label": None,
    }
    data = Path("reviews/books.jsonl").read_bytes()
    assert manifest["sources"][0] == {
        "path": "books.jsonl",
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def test_listed_locations_are_limited_and_counts_are_not(tmp_path, jsonl):
    rows = [{"text": f"t{i}", "label": "ab"[i % 2]} for i in range(10)] + [{"text": "t", "label": None}] * 1200
    jsonl(tmp_path / "in" / "d.jsonl", rows)
    result = prepare(tmp_path / "in", out=tmp_path / "out")
    assert result.dropped == {"no label": 1200}
    dropped = json.loads((tmp_path / "out" / "dataset.json").read_text())["dropped"]["no label"]
    assert dropped["count"] == 1200
    assert len(dropped["rows"]) == 1000
    assert dropped["rows"][0].endswith("d.jsonl:11")
    assert result.dropped_lines()[0].endswith("d.jsonl:13, ...)")


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_split(reviews, tmp_path):
    first = prepare(reviews, out=tmp_path / "a")
    again = prepare(reviews, out=tmp_path / "b")
    other = prepare(reviews, out=tmp_path / "c", seed=1)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    for name in files(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


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
def test_force_never_replaces_a_folder_of_someone_else(reviews, tmp_path, content):
    write_file(tmp_path / "out" / "dataset.json", content)
    write_file(tmp_path / "out" / "thesis.tex", "years of work")
    with pytest.raises(OutputError, match="not a dataset folder written by hrkd"):
        prepare(reviews, out=tmp_path / "out", force=True)
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years of work"
    write_file(tmp_path / "file", "x")
    with pytest.raises(OutputError, match="not a dataset folder"):
        prepare(reviews, out=tmp_path / "file", force=True)


def test_the_leftover_of_a_killed_run_is_removed_but_nothing_else(reviews, tmp_path):
    write_file(tmp_path / "out.partial" / ".hrkd-partial", "")
    write_file(tmp_path / "out.partial" / "dataset.json", "{")
    prepare(reviews, out=tmp_path / "out")
    assert not (tmp_path / "out.partial").exists()
    write_file(tmp_path / "two.partial" / "mine.txt", "x")
    with pytest.raises(OutputError, match=r"two.partial exists and was not written by hrkd"):
        prepare(reviews, out=tmp_path / "two")
    assert (tmp_path / "two.partial" / "mine.txt").exists()


def test_a_prepared_folder_can_be_prepared_again_but_does_not_replace_itself(reviews, tmp_path):
    out = tmp_path / "out"
    first = prepare(reviews, out=out)
    for source in (out, out / "data", out / "data" / "books" / "train.parquet"):
        with pytest.raises(UsageError, match=r"--out .*out: it would replace the source \(.*\); choose another folder"):
            prepare(source, out=out, force=True, few_shot=0.5)
    assert open_dataset(out).fingerprint == first.fingerprint
    again = prepare(out, out=tmp_path / "again", few_shot=0.5)
    assert {name: (c.train, c.dev, c.test) for name, c in again.domains.items()} == {
        "books": (16, 4, 4),
        "dvd": (16, 4, 4),
    }
    assert first.fingerprint != again.fingerprint


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("exists", [True, False])
def test_an_interrupted_run_leaves_no_files(reviews, tmp_path, monkeypatch, error, exists):
    out = tmp_path / "deep" / "out"
    if exists:
        prepare(reviews, out=out)
    before = files(tmp_path)
    update_fingerprint, calls = prepare_module.update_fingerprint, []

    def fail_late(*rows):
        calls.append(rows)
        if len(calls) == 4:
            raise error
        update_fingerprint(*rows)

    monkeypatch.setattr(prepare_module, "update_fingerprint", fail_late)
    expected = OutputError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as raised:
        prepare(reviews, out=out, force=True, seed=5)
    if expected is OutputError:
        assert str(raised.value).startswith(f"{out}: the disk is full")
    assert files(tmp_path) == before
    assert (tmp_path / "deep").exists() is exists


def test_a_write_error_is_an_error_of_one_line(reviews, tmp_path):
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


def test_an_output_below_a_file_is_an_error(reviews, tmp_path):
    write_file(tmp_path / "file", "x")
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


def test_a_domain_with_one_class_is_an_error_with_a_hint(reviews, tmp_path, jsonl):
    jsonl(reviews / "toys.jsonl", [{"text": f"t{i}", "label": "good"} for i in range(9)])
    with pytest.raises(DataError, match=r"domain 'toys' has a single class .'good'.*--domains"):
        prepare(reviews, out=tmp_path / "out")
    assert sorted(prepare(reviews, out=tmp_path / "out", domains=["books", "dvd"]).domains) == ["books", "dvd"]


def test_a_train_split_with_one_class_is_an_error(tmp_path, jsonl):
    jsonl(tmp_path / "in" / "d.train.jsonl", [{"text": f"t{i}", "label": "a"} for i in range(9)])
    jsonl(tmp_path / "in" / "d.test.jsonl", [{"text": f"x{i}", "label": "ab"[i % 2]} for i in range(9)])
    with pytest.raises(DataError, match=r"'d' has a single class in train"):
        prepare(tmp_path / "in", out=tmp_path / "out")


def test_a_domain_whose_texts_are_all_in_anothers_test_split_is_an_error(tmp_path, jsonl):
    rows = [{"text": f"t{i}", "label": "ab"[i % 2]} for i in range(9)]
    jsonl(tmp_path / "in" / "d.jsonl", rows)
    jsonl(tmp_path / "in" / "e.test.jsonl", rows)
    with pytest.raises(DataError, match="9 of 9 train rows of d are also in a test or dev split"):
        prepare(tmp_path / "in", out=tmp_path / "out")
    (tmp_path / "in" / "d.jsonl").rename(tmp_path / "in" / "d.dev.jsonl")
    with pytest.raises(DataError, match="every text of domain 'd' is also in a test or dev split"):
        prepare(tmp_path / "in", out=tmp_path / "out")


def test_train_rows_that_are_nearly_all_in_the_test_split_are_an_error_with_the_count(tmp_path, jsonl):
    for domain in "de":
        rows = [{"text": f"{domain}{i}", "label": "ab"[i % 2]} for i in range(100)]
        jsonl(tmp_path / "in" / f"{domain}.test.jsonl", rows[:95])
        jsonl(tmp_path / "in" / f"{domain}.train.jsonl", rows)
    message = "190 of 200 train rows of d, e are also in a test or dev split, .*take them out .*leave it out.*--domains"
    with pytest.raises(DataError, match=message):
        prepare(tmp_path / "in", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_split_that_loses_most_of_its_rows_for_one_reason_is_a_warning(tmp_path, jsonl):
    rows = [{"text": f"t{i}", "label": "ab"[i % 2]} for i in range(100)]
    jsonl(tmp_path / "in" / "d.train.jsonl", rows)
    jsonl(tmp_path / "in" / "d.dev.jsonl", [{"text": f"dev {i}", "label": "ab"[i % 2]} for i in range(20)])
    jsonl(tmp_path / "in" / "d.test.jsonl", rows[:60] + [{"text": "", "label": "a"}] * 61)
    events = []
    result = prepare(tmp_path / "in", out=tmp_path / "out", on_event=events.append)
    assert result.domains["d"].train == 40
    assert [event.text for event in events if getattr(event, "warning", False)][2:] == [
        "most rows are not used: 61 of 121 test rows of d, empty text",
        "most rows are not used: 60 of 100 train rows of d, text also in test",
    ]


def test_a_prepared_folder_with_a_missing_file_is_not_prepared_without_it(reviews, tmp_path):
    prepare(reviews, out=tmp_path / "one")
    (tmp_path / "one" / "data" / "dvd" / "train.parquet").unlink()
    with pytest.raises(DataError, match=r"data/dvd/train.parquet: missing; prepare the data again"):
        prepare(tmp_path / "one", out=tmp_path / "two")


def test_labels_and_domains_missing_in_a_split_are_noted(tmp_path, jsonl):
    rows = [{"text": f"t{i}", "label": "ab"[i % 2]} for i in range(40)] + [{"text": "rare", "label": "c"}]
    jsonl(tmp_path / "in" / "d.jsonl", rows)
    events = []
    prepare(tmp_path / "in", out=tmp_path / "out", on_event=events.append)
    warnings = [event.text for event in events if getattr(event, "warning", False)]
    assert [warning.partition(",")[0] for warning in warnings] == ["classes with fewer than 10 rows: d/c (1 row)"]
    events.clear()
    prepare(tmp_path / "in", out=tmp_path / "out", force=True, dev=0, on_event=events.append)
    assert "no dev rows: d" in [event.text for event in events if getattr(event, "warning", False)]


@pytest.fixture
def source(tmp_path, jsonl):
    """Three domains in three formats, with repeats, shared texts, line breaks, a given test split and unusable rows."""
    choose, folder = random.Random(1), tmp_path / "source"

    def rows(count):
        for _ in range(count):
            text = choose.choice(["Text {}", "text  {}", "a\n{}", "Gr\u00fc\u00dfe {}"]).format(choose.randrange(300))
            yield {"text": text, "label": choose.choice(["good", "bad", "bad", ""])}

    folder.mkdir()
    quoted = [(row["text"].replace("a", '""'), row["label"]) for row in rows(200)]
    (folder / "books.csv").write_text("text,label\n" + "".join(f'"{text}",{label}\n' for text, label in quoted))
    jsonl(folder / "dvd.train.jsonl", rows(200))
    jsonl(folder / "dvd.test.jsonl", rows(40))
    lines = [f"{row['text']}\t{row['label']}\n".replace("a\n", "a ") for row in rows(200)]
    (folder / "toys.tsv").write_text("text\tlabel\n" + "".join(lines))
    return folder


def rows_of(folder):
    """Rows by domain and split."""
    found = {}
    for path in folder.glob("data/*/*.parquet"):
        table = pq.ParquetFile(path).read().to_pydict()
        found[path.parent.name, path.stem] = list(zip(table["text"], table["label"], strict=True))
    return found


def test_every_row_is_in_one_split_or_dropped_with_its_location(tmp_path, source, read):
    raw, _ = read(source)
    result = prepare(source, out=tmp_path / "out", test=0.2, seed=3)
    kept = rows_of(tmp_path / "out")
    assert sum(map(len, kept.values())) + sum(result.dropped.values()) == len(raw.examples) + len(raw.dropped) == 640
    texts = Counter((row.domain, row.text, row.label) for row in raw.examples)
    for (domain, _), rows in kept.items():
        assert not Counter((domain, *row) for row in rows) - texts
    assert set(result.dropped) == {"no label", "text also in test", "duplicate", "duplicate with another label"}
    assert [row.location for row in raw.dropped] == sorted(result.dropped_rows["no label"])


def test_a_parse_error_names_its_line_and_leaves_no_files(tmp_path):
    lines = [f'"text\n{i}",{"xy"[i % 2]},d\n' for i in range(500)]
    lines[400] = '"text" 400,x,d\n'
    path = tmp_path / "all.csv"
    path.write_text("text,label,domain\n" + "".join(lines))
    with pytest.raises(DataError, match=rf"^{path}:802: not valid quoting"):
        prepare(path, out=tmp_path / "deep" / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["all.csv"]


def test_an_unclosed_quote_is_an_error(tmp_path):
    path = tmp_path / "all.csv"
    path.write_text("text,label,domain\n" + "".join(f"t{i},{'xy'[i % 2]},d\n" for i in range(40)) + '"open,x,d\n')
    with pytest.raises(DataError, match=rf"^{path}:42: not valid quoting"):
        prepare(path, out=tmp_path / "out")


def test_progress_counts_rows_read_and_written(tmp_path, source):
    events = []
    result = prepare(source, out=tmp_path / "out", on_event=events.append)
    progress = [event for event in events if isinstance(event, Progress)]
    assert [event.done for event in progress if event.task == "reading rows"] == [200, 40, 200, 200]
    written = [event for event in progress if event.task == "writing rows"]
    rows = sum(getattr(counts, split) for counts in result.domains.values() for split in SPLITS)
    assert written[-1].done == written[-1].total == rows


def test_a_missing_file_is_an_error(tmp_path, source):
    (source / "gone.csv").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"gone.csv: cannot be read: No such file or directory"):
        prepare(source, out=tmp_path / "out")


@pytest.mark.parametrize("task", ["reading rows", "writing rows"])
def test_ctrl_c_leaves_no_files(tmp_path, source, task):
    code = f"""
import os, signal, sys
from hrkd_cli import prepare
def interrupt(event):
    if getattr(event, "task", "") == {task!r}:
        os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
prepare(sys.argv[1], out=sys.argv[2], on_event=interrupt)
"""
    before = sorted(tmp_path.rglob("*"))
    command = [sys.executable, "-c", code, source, tmp_path / "deep" / "out"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stderr.rstrip().endswith("KeyboardInterrupt")
    assert sorted(tmp_path.rglob("*")) == before


def test_one_domain_and_no_header_are_recorded_and_change_the_prepared_data(tmp_path):
    folder = tmp_path / "in"
    for split in ("train", "test"):
        write_file(folder / f"{split}.csv", "".join(f"{'xy'[i % 2]},{split} {i}\n" for i in range(20)))
    options = {"text": "2", "label": "1", "no_header": True, "one_domain": "d"}
    result = prepare(folder, out=tmp_path / "out", **options)
    counts = result.domains["d"]
    assert (counts.train, counts.dev, counts.test, counts.labels) == (18, 2, 20, {"x": 20, "y": 20})
    recorded = json.loads((tmp_path / "out" / "dataset.json").read_text())["options"]
    assert (recorded["one_domain"], recorded["no_header"]) == ("d", True)
    with pytest.raises(UsageError, match="--one-domain and --domain: give one of them"):
        prepare(folder, out=tmp_path / "out2", domain="1", one_domain="d")


def test_row_groups_have_a_fixed_size(tmp_path, reviews, monkeypatch):
    monkeypatch.setattr(prepare_module, "ROW_GROUP_SIZE", 10)
    prepare(reviews, out=tmp_path / "out")
    metadata = pq.ParquetFile(tmp_path / "out" / "data" / "dvd" / "train.parquet").metadata
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [10, 10, 10, 2]
