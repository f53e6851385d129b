"""Encodings and compression: text is decoded exactly, or the file is an error of one line."""

import gzip
import json
import re

import pytest

from hrkd_cli.errors import DataError
from source_rows import text_label_domain, write_file

ROWS = [("Grüße, größer", "x", "a"), ("zwei", "y", "a")]


CSV = "text,label,domain\n" + "".join(f'"{text}",{label},{domain}\n' for text, label, domain in ROWS)


LINES = "".join(json.dumps({"text": t, "label": n, "domain": d}, ensure_ascii=False) + "\n" for t, n, d in ROWS)


def zstd(data):
    import pyarrow as pa

    return pa.compress(data, codec="zstd", asbytes=True)


@pytest.mark.parametrize(("suffix", "compress"), [(".gz", gzip.compress), (".zst", zstd)])
@pytest.mark.parametrize(("name", "content"), [("all.csv", CSV), ("all.jsonl", LINES)])
def test_compressed_files_are_read(tmp_path, read, suffix, compress, name, content):
    path = tmp_path / (name + suffix)
    path.write_bytes(compress(content.encode()))
    assert text_label_domain(read(path)[0]) == ROWS
    path.write_bytes(compress(content.encode("cp1252")))
    with pytest.raises(DataError, match=r":[12]: not UTF-8 .byte 0xfc."):
        read(path)


def test_a_damaged_gzip_file_is_an_error_of_one_line(tmp_path, read):
    path = tmp_path / "all.csv.gz"
    path.write_bytes(gzip.compress(CSV.encode())[:-12])
    with pytest.raises(DataError, match=r"all\.csv\.gz") as raised:
        read(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_a_byte_order_mark_determines_the_encoding(tmp_path, read, encoding):
    (tmp_path / "all.csv").write_text(CSV, encoding=encoding)
    assert text_label_domain(read(tmp_path / "all.csv")[0]) == ROWS


def test_other_encodings_are_named_by_the_user_and_never_guessed(tmp_path, read):
    (tmp_path / "all.csv").write_text(CSV, encoding="cp1252")
    with pytest.raises(DataError, match=r"all\.csv:2: .*--encoding"):
        read(tmp_path / "all.csv")
    assert text_label_domain(read(tmp_path / "all.csv", encoding="cp1252")[0]) == ROWS


@pytest.mark.parametrize("name", ["all.csv", "all.tsv", "all.jsonl", "books/positive.review"])
def test_broken_utf8_is_an_error_with_its_line(tmp_path, read, name):
    path = write_file(tmp_path / name, b"\xef\xbb\xbffirst\nsecond\nth\xffird\n")
    with pytest.raises(DataError, match=rf"^{path}:3: not UTF-8 .byte 0xff."):
        read(path)


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "déçu, 3 €"),
        ("cp1250", "zepsuł się, żałuję"),
        ("cp1251", "ужасное качество звука"),
        ("cp932", "音質がとても良い①"),
        ("gb18030", "质量太差用了一天就坏了"),
        ("macintosh", "un café, déçu"),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_an_example_of_an_encoding_reads_the_file_without_control_characters(tmp_path, read, encoding, text, suffix):
    text = CSV.replace("Grüße, größer", text)
    path, content = tmp_path / f"all.csv{suffix}", text.encode(encoding)
    path.write_bytes(gzip.compress(content) if suffix else content)
    with pytest.raises(DataError, match=rf"csv{suffix}:2: not UTF-8 .* --encoding NAME, .* iconv -f NAME") as caught:
        read(path)
    names = re.findall(r"(\w+) \(", str(caught.value).rpartition("and program: ")[2])
    assert encoding in names
    for name in names:
        rows = text_label_domain(read(path, encoding=name)[0])
        assert not any("\x80" <= char <= "\x9f" for row in rows for char in row[0])
        assert name != encoding or rows == text_label_domain(read(write_file(tmp_path / "utf8.csv", text))[0])


def test_without_an_encoding_in_which_the_file_is_text_none_is_an_example(tmp_path, read):
    path = write_file(tmp_path / "all.csv", CSV.encode() + b"\x81\x98\xff\xf0,x,a\n")
    with pytest.raises(DataError, match=r"NAME depends on the file's language and program$"):
        read(path)


def test_a_damaged_file_with_a_byte_order_mark_needs_no_other_encoding(tmp_path, read):
    path = write_file(tmp_path / "all.csv", CSV.encode("utf-16")[:-1])
    with pytest.raises(DataError, match=r"not utf-16.*, unlike its byte order mark \(.*\); save it as UTF-8$"):
        read(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "cp1252"])
def test_a_byte_order_mark_is_never_text(tmp_path, read, encoding):
    path = write_file(tmp_path / "all.csv", b"\xef\xbb\xbf" + CSV.encode())
    assert text_label_domain(read(path, encoding=encoding)[0]) == ROWS


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_without_a_byte_order_mark_is_named_by_its_byte_order(tmp_path, read, encoding):
    path = write_file(tmp_path / "all.csv", CSV.encode(encoding))
    with pytest.raises(DataError, match=rf"NUL bytes, .*, as in hrkd prepare --encoding {encoding}, or convert "):
        read(path)
    assert text_label_domain(read(path, encoding=encoding)[0]) == ROWS


def test_a_stray_nul_byte_is_an_error_that_says_how_to_remove_it(tmp_path, read):
    path = write_file(tmp_path / "all.csv", CSV.encode().replace(b"\n", b"\0\n"))
    with pytest.raises(DataError, match=r"NUL bytes, .*; if not, remove them with tr -d '\\000' < FILE > NEW$"):
        read(path)


@pytest.mark.parametrize(("name", "compress"), [("all.csv", gzip.compress), ("all.csv", zstd), ("all.csv.gz", bytes)])
def test_compression_is_recognized_by_content(tmp_path, read, name, compress):
    path = write_file(tmp_path / name, compress(CSV.encode()))
    assert text_label_domain(read(path)[0]) == ROWS
