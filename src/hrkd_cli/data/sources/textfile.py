"""Text files: strict UTF-8, lines that end at a newline and nowhere else, read a block of whole lines at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hrkd_cli.data.sources.records import Piece
from hrkd_cli.errors import DataError

BLOCK = 1 << 20
"""Bytes that are read at a time. Held as Python objects they take some twenty times that."""
_BOM = b"\xef\xbb\xbf"


@contextmanager
def plain_read_errors(path: str | Path) -> Iterator[None]:
    """Turn a failure of the file system into one plain line.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def check_not_empty(path: Path) -> None:
    """Refuse a file without content.

    Raises:
        DataError: it cannot be read, or holds nothing but white space.
    """
    with plain_read_errors(path), path.open("rb") as file:
        start = file.read(len(_BOM))
        block = b" " if start == _BOM else start
        while block.isspace():
            block = file.read(BLOCK)
    if not block:
        raise DataError(f"{path}: the file is empty")


def read_text(path: Path) -> str:
    """Return a file's text, without a byte order mark.

    Raises:
        DataError: it cannot be read, holds nothing, or is not UTF-8.
    """
    check_not_empty(path)
    with plain_read_errors(path):
        size = path.stat().st_size
    return piece_text(Piece(str(path), "", 0, size, 1, size))


def piece_text(piece: Piece) -> str:
    """Return the text of a part of a file, without a byte order mark.

    Raises:
        DataError: it cannot be read, or is not UTF-8.
    """
    with plain_read_errors(piece.path), Path(piece.path).open("rb") as file:
        file.seek(piece.start)
        data = file.read(piece.stop - piece.start)
    mark = len(_BOM) if piece.start == 0 and data.startswith(_BOM) else 0
    try:
        return str(memoryview(data)[mark:], "utf-8")
    except UnicodeDecodeError as error:
        place = mark + error.start
        line = 1 + _newlines(piece.path, piece.start) + data.count(b"\n", 0, place)
        raise DataError(
            f"{piece.path}:{line}: not UTF-8 (byte 0x{data[place]:02x}); convert the file, for example with "
            "iconv -t utf-8"
        ) from None


def split_lines(text: str) -> list[str]:
    """Split at newlines only. ``str.splitlines`` would also cut at U+0085 and others, which occur inside texts."""
    lines = text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def cut_lines(path: Path, reader: str, size: int | None = None) -> Iterator[Piece]:
    """Cut a file whose records are lines.

    Args:
        path: the file.
        reader: the reader of the parts.
        size: bytes of a part at least; BLOCK unless given.
    """
    start, line = 0, 1
    with plain_read_errors(path), path.open("rb") as file:
        while block := file.read(size or BLOCK):
            block += file.readline() if not block.endswith(b"\n") else b""
            yield Piece(str(path), reader, start, start + len(block), line, len(block))
            start += len(block)
            line += block.count(b"\n")


def _newlines(path: str, stop: int) -> int:
    count = 0
    with plain_read_errors(path), Path(path).open("rb") as file:
        while stop > 0 and (block := file.read(min(BLOCK, stop))):
            count += block.count(b"\n")
            stop -= len(block)
    return count
