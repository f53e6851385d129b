"""A folder for each label, with one text in each file."""

import os
import shutil

import pytest

from hrkd_cli import prepare
from hrkd_cli.errors import DataError
from source_rows import write_file


def _write_texts(folder, *paths):
    for path in paths:
        write_file(folder / path, f"text of\n{path}\n")


def test_folders_give_label_split_and_domain(tmp_path, read):
    _write_texts(tmp_path, "books/train/pos/0_9.txt", "books/train/neg/1", "books/test/pos/12", "books/test/neg/4.txt")
    raw, _ = read(tmp_path)
    rows = sorted((row.text, row.label, row.domain, row.split) for row in raw.examples)
    assert rows == [
        ("text of\nbooks/test/neg/4.txt", "neg", "books", "test"),
        ("text of\nbooks/test/pos/12", "pos", "books", "test"),
        ("text of\nbooks/train/neg/1", "neg", "books", "train"),
        ("text of\nbooks/train/pos/0_9.txt", "pos", "books", "train"),
    ]


def test_folders_without_labels_and_other_files_are_named_and_not_read(tmp_path, read):
    _write_texts(
        tmp_path, "train/pos/0.txt", "train/neg/1.txt", "train/unsup/2.txt", "train/urls.txt", "README", "a.vocab"
    )
    with pytest.raises(DataError, match=r"train/neg: no domain column found .*--one-domain NAME"):
        read(tmp_path)
    os.mkfifo(tmp_path / "train" / "pos" / "pipe.txt")
    (tmp_path / "train" / "pos" / ".cache").mkdir()
    raw, notes = read(tmp_path, one_domain="imdb")
    assert [(row.label, row.domain, row.split) for row in raw.examples] == [
        ("neg", "imdb", "train"),
        ("pos", "imdb", "train"),
    ]
    assert notes == [f"{tmp_path}: not read: a.vocab, train/urls.txt, train/unsup/"]


def test_the_checksum_of_a_folder_changes_with_a_text_and_its_name(tmp_path, read):
    checksums = set()
    for name, content in (("1.txt", "a"), ("1.txt", "b"), ("2.txt", "b")):
        shutil.rmtree(tmp_path / "d", ignore_errors=True)
        write_file(tmp_path / "d" / "pos" / name, content)
        write_file(tmp_path / "d" / "neg" / "3.txt", "c")
        (neg, pos), _ = read(tmp_path / "d", one_domain="x")[0].checksums, None
        assert (neg["path"], neg["bytes"], pos["path"]) == ("neg", 1, "pos")
        checksums.add(pos["sha256"])
    assert len(checksums) == 3


def test_a_folder_of_texts_in_another_encoding_is_read(tmp_path):
    for i in range(20):
        write_file(tmp_path / "in" / ("pos", "neg")[i % 2] / f"{i}.txt", f"Grüße {i}".encode("cp1252"))
    with pytest.raises(DataError, match=r"neg/1\.txt:1: not UTF-8 .byte 0xfc.; .*--encoding NAME"):
        prepare(tmp_path / "in", out=tmp_path / "out", one_domain="x")
    assert prepare(tmp_path / "in", out=tmp_path / "out", one_domain="x", encoding="cp1252").domains["x"].train == 16


def test_files_named_like_labels_have_a_text_in_each_line(tmp_path, read):
    for folder in ("books/train", "dvd/test"):
        for label in ("Return", "refund"):
            write_file(tmp_path / folder / f"{label}.txt", f"one {label}\n\ntwo {label}\n")
    write_file(tmp_path / "books" / "README.txt", "About these files.\n")
    raw, notes = read(tmp_path)
    rows = [(row.domain, row.split, row.label, row.text) for row in raw.examples]
    assert rows == [
        (domain, split, label, f"{number} {label}")
        for domain, split in (("books", "train"), ("dvd", "test"))
        for label in ("Return", "refund")
        for number in ("one", "two")
    ]
    assert notes == ["each file has the texts of one label, its name, one per line"]
    assert {row.domain for row in read(tmp_path, one_domain="x")[0].examples} == {"x"}


def test_text_files_of_one_folder_are_labels_only_if_named_like_sentiments(tmp_path, read):
    for name in ("pos", "neg", "notes"):
        write_file(tmp_path / f"{name}.txt", f"about {name}\n")
    with pytest.raises(DataError, match=r"no data in this folder; .*; not read: neg.txt, notes.txt, pos.txt"):
        read(tmp_path)
    (tmp_path / "notes.txt").unlink()
    raw, _ = read(tmp_path, one_domain="x")
    assert [(row.label, row.text) for row in raw.examples] == [("neg", "about neg"), ("pos", "about pos")]


def test_equal_names_that_are_no_words_are_texts_in_folders_of_labels(tmp_path, read):
    _write_texts(tmp_path, "pos/1.txt", "pos/2.txt", "neg/1.txt", "neg/2.txt")
    assert [row.label for row in read(tmp_path, one_domain="x")[0].examples] == ["neg", "neg", "pos", "pos"]
