import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from hrkd_cli.choices import SourceFormat
from hrkd_cli.data.drop_reasons import DropReason
from hrkd_cli.data.sources.formats import PLAIN_TEXT, detect_format, get_format
from hrkd_cli.errors import DataError
from source_rows import reason_and_line, text_domain_split, write_csv_file, write_file


def test_a_named_format_reads_a_file_with_any_suffix(tmp_path, read):
    write_csv_file(tmp_path / "all.data", "a,x,d", header="text,label,domain")
    with pytest.raises(DataError, match=r"all.data: unknown kind of file; name its format"):
        read(tmp_path / "all.data")
    raw, _ = read(tmp_path / "all.data", format="csv")
    assert text_domain_split(raw) == [("a", "d", None)]


@pytest.mark.parametrize("name", ["all.csv", "all.tsv", "all.jsonl", "all.parquet", "books/positive.review"])
@pytest.mark.parametrize("content", [b"", b" \n"])
def test_an_empty_file_is_an_error(tmp_path, read, name, content):
    path = write_file(tmp_path / name, content)
    with pytest.raises(DataError, match=rf"^{path}: the file is empty"):
        read(path)


@pytest.mark.parametrize(
    ("source", "option"),
    [
        ("a.jsonl", "no_header"),
        ("a.parquet", "no_header"),
        ("a.parquet", "encoding"),
        ("saved", "no_header"),
        ("saved", "encoding"),
        ("folders", "no_header"),
        ("files", "no_header"),
    ],
)
def test_options_that_a_format_does_not_use_are_refused(tmp_path, read, source, option):
    rows = [{"text": f"text {i}", "label": ("neg", "pos")[i % 2], "domain": "d"} for i in range(4)]
    write_file(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    for name in ("folders/d/pos/1.txt", "folders/d/neg/1.txt", "files/d/pos.txt", "files/d/neg.txt"):
        write_file(tmp_path / name, "a text\n")
    read(tmp_path / source)
    flag, value, kind = {
        "no_header": ("--no-header", True, "CSV and TSV"),
        "encoding": ("--encoding", "latin-1", "text"),
    }[option]
    with pytest.raises(DataError, match=rf"{source}.*: {flag} is for {kind} files only"):
        read(tmp_path / source, **{option: value})


def test_formats_are_detected_by_suffix_in_any_case_and_compression():
    for name in ("a.csv", "a.CSV", "a.csv.gz", "a.b.csv.zst"):
        assert detect_format(Path(name)) is get_format(SourceFormat.CSV)
    assert detect_format(Path("a.xlsx")) is None


def test_some_suffixes_are_read_only_if_the_file_is_the_source():
    assert detect_format(Path("a.json")) is get_format(SourceFormat.JSONL)
    assert detect_format(Path("a.json"), standalone=False) is None


def test_plain_text_is_read_only_if_no_label_is_required():
    assert detect_format(Path("a.txt")) is None
    assert detect_format(Path("a.txt"), require_label=False) is PLAIN_TEXT


@pytest.mark.parametrize(
    ("content", "text", "label"),
    [
        ("text\tlabel\na, b\tx\n", "a, b", "x"),
        ('Kommentar\tWertung\n"a\tb"\tx\n'.encode("utf-16"), "a\tb", "x"),
        ("sentence,label\na,x\n", "a", "x"),
    ],
)
def test_a_table_in_a_txt_file_is_read_as_one(tmp_path, read, content, text, label):
    write_file(tmp_path / "books.txt", content)
    named = {} if isinstance(content, str) else {"text": "Kommentar", "label": "Wertung"}
    for source, options in ((tmp_path, {}), (tmp_path / "books.txt", {"one_domain": "books"})):
        raw, _ = read(source, **options, **named)
        assert [(row.text, row.label, row.domain) for row in raw.examples] == [(text, label, "books")]


def test_lines_of_text_are_no_table(tmp_path, read):
    path = write_file(tmp_path / "books.txt", "A text, with a comma\nand\tone with a tab\n")
    with pytest.raises(DataError, match=r"books.txt: unknown kind of file; name its format"):
        read(path)


def test_a_named_format_also_reads_the_txt_files_of_a_folder(tmp_path, read):
    for name in ("imdb", "yelp"):
        write_file(tmp_path / f"{name}.txt", "good one\t1\n")
    raw, _ = read(tmp_path, format="tsv", no_header=True, text="1", label="2")
    assert [(row.text, row.label, row.domain) for row in raw.examples] == [
        ("good one", "1", "imdb"),
        ("good one", "1", "yelp"),
    ]


FASTTEXT = "__label__x one  two\n\nthree __label__y\nfour\n"


@pytest.mark.parametrize("name", ["cooking.train", "cooking.train.txt", "cooking_train.ft"])
def test_fasttext_labels_are_words_with_the_prefix_and_lines_without_one_are_dropped(tmp_path, read, name):
    write_file(tmp_path / name, FASTTEXT)
    raw, _ = read(tmp_path)
    rows = [(e.text, e.label, e.domain, e.split, e.line) for e in raw.examples]
    assert rows == [("one  two", "x", "cooking", "train", 1), ("three", "y", "cooking", "train", 3)]
    assert reason_and_line(raw) == [(DropReason.NO_LABEL, 4)]


def test_a_fasttext_line_with_several_labels_is_an_error(tmp_path, read):
    write_file(tmp_path / "cooking.txt", FASTTEXT + "__label__y __label__x two\n")
    with pytest.raises(DataError, match=r"cooking\.txt:5: a list or object as label .*exactly one label per text"):
        read(tmp_path)
