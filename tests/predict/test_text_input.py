import io
import os

import pytest

from hrkd_cli.errors import DataError
from hrkd_cli.predict import text_input


def test_lines_are_read_as_they_arrive():
    read, write = os.pipe()
    with os.fdopen(read, "rb") as stream, os.fdopen(write, "wb", buffering=0) as pipe:
        rows = text_input.from_lines(stream, "stdin", False, "auto", pytest.fail)
        for line, piece in enumerate((b"one\ntw", b"o\n"), start=1):
            pipe.write(piece)
            assert next(rows) == ("one" if line == 1 else "two", "auto", {"line": line})


def test_an_empty_line_is_a_text_with_a_warning(tmp_path):
    (tmp_path / "t.txt").write_bytes(b"\xef\xbb\xbfgood\r\n \nlast")
    warnings = []
    with (tmp_path / "t.txt").open("rb") as stream:
        rows = text_input.from_lines(stream, "t.txt", False, "auto", warnings.append)
        assert [row.text for row in rows] == ["good", " ", "last"]
    assert warnings == ["t.txt:2: empty line, no label"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", ["good\nbad\n", "дни\nдни\n"])
def test_utf_16_without_a_byte_order_mark_is_refused(encoding, text):
    stream = io.BytesIO(text.encode(encoding))
    with pytest.raises(DataError, match=r"^t.txt:[12]: contains NUL bytes, like UTF-16; convert it to UTF-8$"):
        list(text_input.from_lines(stream, "t.txt", False, "auto", pytest.fail))


@pytest.mark.parametrize("row", ["a", "a\t", "\tb", "a\tb\tc"])
def test_a_pair_needs_one_tab_between_two_texts(row):
    assert text_input.split_pair("t.txt:1", "a\tb", True) == ("a", "b")
    assert text_input.split_pair("t.txt:2", " ", True) == (" ", "")
    with pytest.raises(DataError, match=r"^t.txt:3: this model reads pairs; put one TAB between the two texts$"):
        text_input.split_pair("t.txt:3", row, True)
