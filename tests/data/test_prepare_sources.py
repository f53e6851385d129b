"""Sources of several files and formats, read by DuckDB or row by row, and interrupted."""

import random
import subprocess
import sys
from collections import Counter

import pyarrow.parquet as pq
import pytest

from hrkd_cli import prepare
from hrkd_cli.data import dataset_folder as folder_module
from hrkd_cli.errors import DataError
from hrkd_cli.events import Progress
from hrkd_cli.layout import SPLITS


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


def test_every_row_is_in_one_split_or_counted_with_its_place(tmp_path, source, read):
    raw, _ = read(source)
    result = prepare(source, out=tmp_path / "out", test=0.2, seed=3)
    kept = rows_of(tmp_path / "out")
    assert sum(map(len, kept.values())) + sum(result.dropped.values()) == len(raw.examples) + len(raw.dropped) == 640
    texts = Counter((row.domain, row.text, row.label) for row in raw.examples)
    for (domain, _), rows in kept.items():
        assert not Counter((domain, *row) for row in rows) - texts
    assert set(result.dropped) == {"no label", "text also in test", "duplicate", "duplicate with another label"}
    assert [row.location for row in raw.dropped] == sorted(result.dropped_rows["no label"])


def test_an_error_deep_in_a_file_names_its_line_and_leaves_nothing(tmp_path):
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


def test_what_comes_first_in_the_source_is_what_is_reported(tmp_path, jsonl):
    folder = tmp_path / "in"
    rows = [{"text": f"t{i}", "label": i % 2} for i in range(60)]
    jsonl(folder / "a.jsonl", rows)
    (folder / "b.csv").write_text("text,label\n")
    (folder / "c.csv").write_text("text,label\n" + "t,l\n" * 60 + '"t" t,l\n')
    (folder / "d.csv").write_text("no,columns\nx,y\n")
    for name, message in (("b", "b.csv: no rows in it"), ("c", "c.csv:62: not valid"), ("d", "d.csv: no text column")):
        with pytest.raises(DataError, match=message):
            prepare(folder, out=tmp_path / "out")
        (folder / f"{name}.csv").unlink()
    assert prepare(folder, out=tmp_path / "out").domains["a"].train == 48


def test_row_groups_are_small(tmp_path, source, monkeypatch):
    monkeypatch.setattr(folder_module, "ROW_GROUP_SIZE", 16)
    prepare(source, out=tmp_path / "out")
    meta = pq.ParquetFile(tmp_path / "out" / "data" / "dvd" / "train.parquet").metadata
    assert {meta.row_group(i).num_rows for i in range(meta.num_row_groups - 1)} == {16}


def test_progress_counts_what_is_read_and_written(tmp_path, source):
    events = []
    result = prepare(source, out=tmp_path / "out", on_event=events.append)
    progress = [event for event in events if isinstance(event, Progress)]
    assert [event.done for event in progress if event.task == "reading rows"] == [200, 40, 200, 200]
    written = [event for event in progress if event.task == "writing rows"]
    rows = sum(getattr(counts, split) for counts in result.domains.values() for split in SPLITS)
    assert written[-1].done == written[-1].total == rows


def test_a_file_that_is_gone_is_an_error_about_reading(tmp_path, source):
    (source / "gone.csv").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"gone.csv: cannot be read: No such file or directory"):
        prepare(source, out=tmp_path / "out")


@pytest.mark.parametrize("task", ["reading rows", "writing rows"])
def test_ctrl_c_leaves_no_file(tmp_path, source, task):
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
