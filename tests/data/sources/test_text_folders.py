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
    with pytest.raises(DataError, match=r"neg/1\.txt:1: not UTF-8 .byte 0xfc.; .*--encoding cp1252"):
        prepare(tmp_path / "in", out=tmp_path / "out", one_domain="x")
    assert prepare(tmp_path / "in", out=tmp_path / "out", one_domain="x", encoding="cp1252").domains["x"].train == 16
