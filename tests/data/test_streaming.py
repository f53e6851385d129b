"""A source that does not fit in memory comes to what a small one comes to."""

import json
import random
import subprocess
import sys

import plain_splitting
import pyarrow.parquet as pq
import pytest

from hrkd_cli import prepare
from hrkd_cli.data import prepare as prepare_module
from hrkd_cli.data import spool, writing
from hrkd_cli.errors import DataError, UsageError
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


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows_of(folder):
    """Rows by domain and split."""
    found = {}
    for path in folder.glob("data/*/*.parquet"):
        table = pq.ParquetFile(path).read().to_pydict()
        found[path.parent.name, path.stem] = list(zip(table["text"], table["label"], strict=True))
    return found


@pytest.mark.parametrize("block", [1, 50, 700, 4 << 20])
@pytest.mark.parametrize("dedupe", [True, False])
def test_streamed_rows_are_those_of_the_plain_rules_on_rows_in_memory(tmp_path, source, read, blocks, block, dedupe):
    raw, _ = read(source)
    expected = plain_splitting.split_examples(raw.examples, dev=0.1, test=0.2, dedupe=dedupe, seed=3)
    blocks(block)
    result = prepare(source, out=tmp_path / "out", test=0.2, dedupe=dedupe, seed=3)
    assert rows_of(tmp_path / "out") == {
        (domain, split): [(row.text, row.label) for row in rows]
        for domain, parts in expected.rows.items()
        for split, rows in parts.items()
    }
    places = {}
    for row in raw.dropped + expected.dropped:
        places.setdefault(str(row.reason), []).append(row.place)
    assert list(result.dropped_rows.items()) == [(reason, tuple(rows)) for reason, rows in places.items()]
    assert len(places) == (4 if dedupe else 2)


def test_the_result_does_not_depend_on_the_number_of_processes(tmp_path, source, blocks):
    blocks(500)
    folders = []
    for processes in (1, 2, 3):
        prepare(source, out=tmp_path / str(processes), processes=processes, few_shot=0.5)
        folders.append(content(tmp_path / str(processes)))
    assert folders[0] == folders[1] == folders[2]
    assert len(folders[0]) == 2 + 3 * len(SPLITS)
    with pytest.raises(UsageError, match="--processes: 0 is not at least 1"):
        prepare(source, out=tmp_path / "none", processes=0)


def test_pairs_are_streamed_too(tmp_path, jsonl, blocks):
    rows = [
        {"text": f"p {i % 30}", "text_pair": f"h {i % 50}", "label": i % 3, "domain": "ab"[i % 7 % 2]}
        for i in range(300)
    ]
    path = jsonl(tmp_path / "all.jsonl", rows)
    whole = prepare(path, out=tmp_path / "whole")
    blocks(100)
    parts = prepare(path, out=tmp_path / "parts", processes=2)
    assert parts.fingerprint == whole.fingerprint
    assert rows_of(tmp_path / "parts") == rows_of(tmp_path / "whole")


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_deep_in_a_file_names_its_line_and_leaves_nothing(tmp_path, blocks, processes):
    blocks(300)
    lines = [f'"text\n{i}",{"xy"[i % 2]},d\n' for i in range(500)]
    lines[400] = '"text" 400,x,d\n'
    path = tmp_path / "all.csv"
    path.write_text("text,label,domain\n" + "".join(lines))
    with pytest.raises(DataError, match=rf"^{path}:802: not valid quoting"):
        prepare(path, out=tmp_path / "deep" / "out", processes=processes)
    assert [entry.name for entry in tmp_path.iterdir()] == ["all.csv"]


@pytest.mark.parametrize("processes", [1, 2])
def test_what_comes_first_in_the_source_is_what_is_reported(tmp_path, jsonl, blocks, processes):
    blocks(100)
    folder = tmp_path / "in"
    rows = [{"text": f"t{i}", "label": i % 2} for i in range(60)]
    jsonl(folder / "a.jsonl", rows)
    (folder / "b.csv").write_text("text,label\n")
    (folder / "c.csv").write_text("text,label\n" + "t,l\n" * 60 + '"t" t,l\n')
    (folder / "d.csv").write_text("no,columns\nx,y\n")
    for name, message in (("b", "b.csv: no rows in it"), ("c", "c.csv:62: not valid"), ("d", "d.csv: no text column")):
        with pytest.raises(DataError, match=message):
            prepare(folder, out=tmp_path / "out", processes=processes)
        (folder / f"{name}.csv").unlink()
    assert prepare(folder, out=tmp_path / "out", processes=processes).domains["a"].train == 48


def test_little_is_held_of_what_is_spooled(tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "_MOST_ROWS", 10)
    monkeypatch.setattr(spool, "_MOST_CHARACTERS", 400)
    taken, held, most = 0, 0, []

    def rows():
        nonlocal taken
        for i in range(1000):
            taken += 1
            most.append(taken - held)
            yield i, "x" * (i % 3 * 60), None, "l", "ab"[i % 2], None

    slabs, numbers = spool._slabs, []

    def counted(*args):
        nonlocal held
        for slab in slabs(*args):
            numbers.append(len(slab.lines))
            yield slab
            held += len(slab.lines)

    monkeypatch.setattr(spool, "_slabs", counted)
    result = spool.spool_rows(rows(), tmp_path / "0", pair=False, wanted=None)
    assert result.rows == 1000
    assert max(numbers) <= 10
    assert min(numbers[:-1]) < 10  # cut by their length
    assert max(most) <= 10
    texts = [batch.column("text").to_pylist() for batch in spool.read_batches(str(tmp_path / "0"), [0, 1])]
    assert result.batches[:2] == [0, 1]
    assert texts[0][:2] == ["", "x" * 120]
    assert texts[1][:2] == ["x" * 60, ""]


def test_row_groups_are_small_and_do_not_depend_on_the_pieces(tmp_path, source, blocks, monkeypatch):
    monkeypatch.setattr(writing, "_GROUP_ROWS", 16)
    files = []
    for block in (100, 5000):
        blocks(block)
        prepare(source, out=tmp_path / "out", force=True)
        path = tmp_path / "out" / "data" / "dvd" / "train.parquet"
        meta = pq.ParquetFile(path).metadata
        assert {meta.row_group(i).num_rows for i in range(meta.num_row_groups - 1)} == {16}
        files.append(path.read_bytes())
    assert files[0] == files[1]


def test_progress_counts_what_is_read_and_written(tmp_path, source, blocks):
    blocks(1000)
    events = []
    prepare(source, out=tmp_path / "out", on_event=events.append)
    progress = [event for event in events if isinstance(event, Progress)]
    read = [event for event in progress if event.task == "reading MB"]
    written = [event for event in progress if event.task == "writing rows"]
    assert read[-1].done == read[-1].total == 1
    counts = [int(event.extra["rows"]) for event in read]
    assert counts == sorted(counts)
    assert len(read) > 10
    manifest = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert written[-1].done == written[-1].total == sum(d[s] for d in manifest["domains"].values() for s in SPLITS)


def test_a_small_source_starts_no_process_and_a_large_one_a_process_a_core(tmp_path, source, monkeypatch):
    sizes, crew = [], prepare_module.Crew

    def noted(size):
        sizes.append(size)
        return crew(size)

    monkeypatch.setattr(prepare_module, "Crew", noted)
    monkeypatch.setattr(prepare_module, "_cores", lambda: 2)
    small = prepare(source, out=tmp_path / "small")
    monkeypatch.setattr(prepare_module, "_LARGE", 1000)
    large = prepare(source, out=tmp_path / "large")
    assert sizes == [1, 1, 2, 2]  # readers and writers
    assert small.fingerprint == large.fingerprint


def test_a_file_that_is_gone_is_an_error_about_reading(tmp_path, source):
    (source / "gone.csv").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"gone.csv: cannot be read: No such file or directory"):
        prepare(source, out=tmp_path / "out")


def test_a_script_without_a_main_guard_is_not_run_again(tmp_path, source):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom hrkd_cli import prepare\nprint('once')\n"
        "print(sorted(prepare(sys.argv[1], out=sys.argv[2], processes=2).domains))\n"
    )
    command = [sys.executable, script, source, tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "once\n['books', 'dvd', 'toys']\n"
    assert done.stderr == ""


@pytest.mark.parametrize("task", ["reading MB", "writing rows"])
def test_ctrl_c_leaves_no_file_and_no_process(tmp_path, source, task):
    code = f"""
import os, signal, sys
from hrkd_cli import prepare
from hrkd_cli.data.sources import amazon, delimited, textfile
for module in (amazon, delimited, textfile):
    module.BLOCK = 500
def interrupt(event):
    if getattr(event, "task", "") == {task!r}:
        os.killpg(0, signal.SIGINT)  # as a terminal does, to all processes of the group
prepare(sys.argv[1], out=sys.argv[2], processes=2, on_event=interrupt)
"""
    before = sorted(tmp_path.rglob("*"))
    command = [sys.executable, "-c", code, source, tmp_path / "deep" / "out"]
    # Workers hold standard error too: its end is seen only when all of them are gone.
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, start_new_session=True)
    assert done.stderr.rstrip().endswith("KeyboardInterrupt")
    assert done.stderr.count("KeyboardInterrupt") == 1
    assert sorted(tmp_path.rglob("*")) == before
