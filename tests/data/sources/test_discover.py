"""Layouts of folders, and the domains and splits that names give."""

import gzip
import os

import pytest

from hrkd_cli import prepare
from hrkd_cli.data.sources.discover import looks_like_hub_id
from hrkd_cli.errors import DataError
from hrkd_cli.sample import FOLDER
from source_rows import text_domain_split, write_csv_file, write_file


def test_one_file_per_domain_in_mixed_formats_with_splits_in_names(tmp_path, read, jsonl):
    write_csv_file(tmp_path / "books.train.csv", "a,x")
    write_csv_file(tmp_path / "books.test.csv", "b,x")
    write_csv_file(tmp_path / "mr.bean.val.csv", "c,x")
    jsonl(tmp_path / "dvd.jsonl", [{"text": "d", "label": "x"}])
    (tmp_path / "toys.tsv").write_text("text\tlabel\ne\tx\n")
    raw, _ = read(tmp_path)
    assert text_domain_split(raw) == [
        ("a", "books", "train"),
        ("b", "books", "test"),
        ("c", "mr.bean", "dev"),
        ("d", "dvd", None),
        ("e", "toys", None),
    ]
    assert [s["path"] for s in raw.checksums] == [
        "books.test.csv",
        "books.train.csv",
        "dvd.jsonl",
        "mr.bean.val.csv",
        "toys.tsv",
    ]


@pytest.mark.parametrize("name", ["dev", "val", "valid", "validation", "Validation"])
def test_all_names_of_the_dev_split_are_known(tmp_path, read, name):
    write_csv_file(tmp_path / "books" / f"{name}.csv", "a,x")
    raw, _ = read(tmp_path)
    assert text_domain_split(raw) == [("a", "books", "dev")]


def test_one_folder_per_domain(tmp_path, read):
    write_csv_file(tmp_path / "books" / "train.csv", "a,x")
    write_csv_file(tmp_path / "books" / "test.csv", "b,x")
    write_csv_file(tmp_path / "dvd" / "part1.csv", "c,x")
    write_csv_file(tmp_path / "dvd" / "part2.csv", "d,x")
    raw, _ = read(tmp_path)
    assert text_domain_split(raw) == [
        ("a", "books", "train"),
        ("b", "books", "test"),
        ("c", "dvd", None),
        ("d", "dvd", None),
    ]


def test_one_file_per_split_with_a_domain_column(tmp_path, read):
    write_csv_file(tmp_path / "train.csv", "a,x,books", header="text,label,genre")
    write_csv_file(tmp_path / "test-00000-of-00001.csv", "b,x,dvd", header="text,label,genre")
    raw, _ = read(tmp_path)
    assert text_domain_split(raw) == [("a", "books", "train"), ("b", "dvd", "test")]


def test_one_file_per_split_without_a_domain_column_is_an_error(tmp_path, read):
    write_csv_file(tmp_path / "train.csv", "a,x")
    with pytest.raises(DataError, match=r"train.csv: no domain column found"):
        read(tmp_path)


def test_one_folder_per_split(tmp_path, read):
    write_csv_file(tmp_path / "train" / "books.csv", "a,x")
    write_csv_file(tmp_path / "test" / "books.csv", "b,x")
    raw, _ = read(tmp_path)
    assert text_domain_split(raw) == [("a", "books", "train"), ("b", "books", "test")]


def test_a_compressed_file_gives_domain_and_split_by_its_name(tmp_path, read):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "books.test.jsonl.gz").write_bytes(gzip.compress(b'{"text": "t", "label": "x"}\n'))
    assert [(row.domain, row.split) for row in read(folder)[0].examples] == [("books", "test")]


def test_files_about_the_data_are_skipped_and_other_files_noted(tmp_path, read):
    write_csv_file(tmp_path / "books.csv", "a,x")
    for name in ("README.md", "LICENSE", "LICENSE.txt", ".hidden.csv", "load.py", "extra.xlsx", "notes.txt"):
        (tmp_path / name).write_text("x")
    (tmp_path / "__pycache__").mkdir()
    raw, notes = read(tmp_path)
    assert text_domain_split(raw) == [("a", "books", None)]
    assert notes == [f"{tmp_path}: not read: extra.xlsx, notes.txt"]
    (tmp_path / "extra.xlsx").write_bytes(b"PK\x03\x04____[Content_Types].xml")
    workbook, _ = read(tmp_path)[1]
    assert workbook.startswith(
        f"not read: {tmp_path}/extra.xlsx: an Excel workbook; to convert it: pip install openpyxl"
    )


def test_data_in_too_deep_folders_is_noted(tmp_path, read):
    (tmp_path / "more" / "dvd").mkdir(parents=True)
    for path in (tmp_path / "books.csv", tmp_path / "more" / "dvd" / "part.csv"):
        path.write_text("text,label\na,x\n")
    _, notes = read(tmp_path)
    assert notes == [f"{tmp_path}: not read: more/dvd/ (too deep)"]


def test_a_named_format_reads_only_its_files(tmp_path, read, jsonl):
    write_csv_file(tmp_path / "books.csv", "a,x")
    jsonl(tmp_path / "dvd.jsonl", [{"text": "d", "label": "x"}])
    raw, notes = read(tmp_path, format="jsonl")
    assert text_domain_split(raw) == [("d", "dvd", None)]
    assert notes == [f"{tmp_path}: not read: books.csv"]
    with pytest.raises(DataError, match=r"no parquet data in this folder.*not read: books.csv, dvd.jsonl"):
        read(tmp_path, format="parquet")


def test_a_folder_without_data_is_an_error(tmp_path, read):
    (tmp_path / "README.md").write_text("x")
    (tmp_path / "sub").mkdir()
    with pytest.raises(DataError, match="no data in this folder"):
        read(tmp_path)


@pytest.mark.parametrize("source", ["./nowhere", "/no/where", "reviews.csv", "data/reviews.jsonl", "", "a/b/c"])
def test_a_path_that_does_not_exist_is_an_error(read, source):
    with pytest.raises(DataError, match=r"no such file or folder"):
        read(source)


def test_a_name_that_is_no_local_path_or_data_file_may_be_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert looks_like_hub_id("imdb")
    assert looks_like_hub_id("acme/reviews")
    assert looks_like_hub_id("nyu-mll/glue:mnli")
    assert not looks_like_hub_id("here/reviews")
    assert not looks_like_hub_id("acme/reviews.csv")
    assert not looks_like_hub_id("~/reviews")


def test_mnli_without_train(tmp_path, read):
    write_file(tmp_path / "dev_matched.tsv", "genre\tsentence1\tsentence2\tgold_label\nslate\ta\tb\tneutral\n")
    raw, _ = read(tmp_path, format="mnli")
    assert [e.split for e in raw.examples] == ["test"]


def test_mnli_without_dev_matched_is_read_if_the_format_is_named(tmp_path, read):
    write_file(tmp_path / "train.tsv", 'genre\tsentence1\tsentence2\tgold_label\nslate\t"a\tb\tneutral\n')
    raw, _ = read(tmp_path, format="mnli")
    assert [(e.text, e.domain, e.split) for e in raw.examples] == [('"a', "slate", "train")]


def test_the_built_in_sample_is_a_source(tmp_path):
    result = prepare("sample", out=tmp_path / "out")
    assert list(result.domains) == ["camera", "dvdplayer", "phone", "router"]
    assert sum(c.train + c.dev + c.test for c in result.domains.values()) == 2014
    assert result.dropped == {}
    assert "CC BY 4.0" in (FOLDER / "LICENSE.md").read_text()


def test_a_folder_called_sample_takes_precedence(tmp_path, monkeypatch):
    (tmp_path / "sample").mkdir()
    lines = "".join(f"text {n},{'good' if n % 2 else 'bad'}\n" for n in range(40))
    (tmp_path / "sample" / "mine.csv").write_text(f"text,label\n{lines}")
    monkeypatch.chdir(tmp_path)
    assert list(prepare("sample", out="out").domains) == ["mine"]


def test_the_one_name_of_all_files_gives_the_domain_unless_a_column_does(tmp_path, read):
    write_csv_file(tmp_path / "nli_train.csv", "a,x,g", header="text,label,genre")
    write_csv_file(tmp_path / "nli_test.csv", "b,x,h", header="text,label,genre")
    assert text_domain_split(read(tmp_path)[0]) == [("a", "g", "train"), ("b", "h", "test")]
    write_csv_file(tmp_path / "nli_train.csv", "a,x")
    write_csv_file(tmp_path / "nli_test.csv", "b,x")
    raw, notes = read(tmp_path)
    assert text_domain_split(raw) == [("a", "nli", "train"), ("b", "nli", "test")]
    assert notes == [
        "one domain, 'nli', by the names of the files; hrkd prepare --one-domain NAME gives it another name"
    ]


def test_mismatched_and_submission_files_are_named_and_not_read(tmp_path, read):
    write_csv_file(tmp_path / "nli_train.csv", "a,x")
    for name in ("nli_dev_mismatched.csv", "sample_submission.csv"):
        write_csv_file(tmp_path / name, "b,x")
    raw, notes = read(tmp_path)
    assert text_domain_split(raw) == [("a", "nli", "train")]
    assert f"{tmp_path}: not read: nli_dev_mismatched.csv, sample_submission.csv" in notes


def test_what_is_neither_file_nor_folder_is_refused_without_reading_it(tmp_path, read):
    os.mkfifo(tmp_path / "pipe.csv")
    for source in (tmp_path / "pipe.csv", "/dev/zero"):
        with pytest.raises(DataError, match=rf"^{source}: not a regular file or folder"):
            read(source)
    write_csv_file(tmp_path / "books.csv", "a,x")
    raw, notes = read(tmp_path)
    assert text_domain_split(raw) == [("a", "books", None)]
    assert f"{tmp_path}: not read: pipe.csv (not a regular file)" in notes


def test_folders_that_only_wrap_the_data_give_no_domain(tmp_path, read):
    for name in ("books", "dvd"):
        write_csv_file(tmp_path / "corpus" / "1.0" / "data" / f"{name}.csv", f"{name},x")
    (tmp_path / "README.md").write_text("x")
    raw, notes = read(tmp_path)
    assert text_domain_split(raw) == [("books", "books", None), ("dvd", "dvd", None)]
    assert raw.checksums[0]["path"] == "corpus/1.0/data/books.csv"
    assert notes == []


def test_the_same_data_as_txt_is_not_read_twice(tmp_path, read, jsonl):
    jsonl(tmp_path / "nli_train.jsonl", [{"text": "a", "label": "x"}])
    (tmp_path / "nli_train.txt").write_text("text\tlabel\na\tx\n")
    raw, notes = read(tmp_path)
    assert text_domain_split(raw) == [("a", "nli", "train")]
    assert f"{tmp_path}: not read: nli_train.txt" in notes
