"""Compressed files, encodings and separators: read as they are, or refused in one line."""

import gzip
import json

import pytest

from hrkd_cli.errors import DataError

ROWS = [("Grüße, größer", "x", "a"), ("zwei", "y", "a")]
CSV = "text,label,domain\n" + "".join(f'"{text}",{label},{domain}\n' for text, label, domain in ROWS)
LINES = "".join(json.dumps({"text": t, "label": n, "domain": d}, ensure_ascii=False) + "\n" for t, n, d in ROWS)
ARRAY = json.dumps([{"text": t, "label": n, "domain": d} for t, n, d in ROWS], indent=1)


def zstd(data):
    import pyarrow as pa

    return pa.compress(data, codec="zstd", asbytes=True)


def rows_of(raw):
    return [(row.text, row.label, row.domain) for row in raw.examples]


@pytest.mark.parametrize(("suffix", "compress"), [(".gz", gzip.compress), (".zst", zstd)])
@pytest.mark.parametrize(("name", "content"), [("all.csv", CSV), ("all.jsonl", LINES)])
def test_compressed_files_are_read(tmp_path, read, suffix, compress, name, content):
    path = tmp_path / (name + suffix)
    path.write_bytes(compress(content.encode()))
    assert rows_of(read(path)[0]) == ROWS
    path.write_bytes(compress(content.encode("cp1252")))
    with pytest.raises(DataError, match=r":[12]: not UTF-8 .byte 0xfc."):
        read(path)


def test_a_compressed_file_in_a_folder_is_a_domain(tmp_path, read):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "books.test.jsonl.gz").write_bytes(gzip.compress(b'{"text": "t", "label": "x"}\n'))
    assert [(row.domain, row.split) for row in read(folder)[0].examples] == [("books", "test")]


def test_a_damaged_gzip_file_is_one_line(tmp_path, read):
    path = tmp_path / "all.csv.gz"
    path.write_bytes(gzip.compress(CSV.encode())[:-12])
    with pytest.raises(DataError, match=r"all\.csv\.gz") as raised:
        read(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [ARRAY, LINES.replace("\n", ""), LINES])
@pytest.mark.parametrize("name", ["all.json", "all.jsonl"])
def test_json_arrays_and_objects_one_after_the_other_are_read(tmp_path, read, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert rows_of(read(tmp_path / name)[0]) == ROWS


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_a_byte_order_mark_says_the_encoding(tmp_path, read, encoding):
    (tmp_path / "all.csv").write_text(CSV, encoding=encoding)
    assert rows_of(read(tmp_path / "all.csv")[0]) == ROWS


def test_other_encodings_are_named_and_never_guessed(tmp_path, read):
    (tmp_path / "all.csv").write_text(CSV, encoding="cp1252")
    with pytest.raises(DataError, match=r"all\.csv:2: .*--encoding"):
        read(tmp_path / "all.csv")
    assert rows_of(read(tmp_path / "all.csv", encoding="cp1252")[0]) == ROWS


@pytest.mark.parametrize(("separator", "word"), [(";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")])
def test_the_separator_of_a_csv_file_is_found_and_said(tmp_path, read, separator, word):
    lines = CSV.replace(",label,domain", f"{separator}label{separator}domain").replace('",', f'"{separator}')
    (tmp_path / "all.csv").write_text(lines.replace("x,a", f"x{separator}a").replace("y,a", f"y{separator}a"))
    raw, notes = read(tmp_path / "all.csv")
    assert rows_of(raw) == ROWS
    assert any(f"separated by {word}" in note for note in notes)
