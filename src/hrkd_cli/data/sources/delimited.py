"""CSV and TSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from operator import itemgetter
from pathlib import Path

from hrkd_cli.data.sources.records import Piece, Row, Survey, Table, piecewise
from hrkd_cli.data.sources.textfile import (
    BLOCK,
    check_not_empty,
    cut_lines,
    piece_text,
    plain_read_errors,
    split_lines,
)
from hrkd_cli.errors import DataError

# The csv module refuses fields above 128 KiB unless told; this is the most that it takes on every platform.
_FIELD_LIMIT = 2**31 - 1
_DELIMITERS = {"csv": ",", "quoted-tsv": "\t"}
# From behind an opening quotation mark to the one that closes the field.
_TO_CLOSING = re.compile(rb'[^"]*+(?:""[^"]*+)*+"')
_LINE_ENDS = b"\r\n"
_BOM = b"\xef\xbb\xbf"


def read_csv(path: Path) -> Table:
    """Read a comma-separated file with a header, quoted as RFC 4180 says."""
    return _quoted(path, "csv")


def read_tsv(path: Path, survey: Survey) -> Table:
    """Read a tab-separated file with a header.

    Most TSV files are not quoted, and a text may begin with a quotation mark that is never closed. So when every line
    has as many tabs as the header, each field is taken as it stands, unquoted only where it is well-formed CSV
    quoting; else the file must be quoted CSV with tabs.

    Args:
        path: the file.
        survey: runs ``survey_tsv`` over the parts of the file.
    """
    check_not_empty(path)
    counts = {count for found in survey(cut_lines(path, "tsv")) for count in found}
    if len(counts) == 1:
        return _literal(path, "tsv")
    return _quoted(path, "quoted-tsv")


def read_tsv_unquoted(path: Path) -> Table:
    """Read a tab-separated file in which quotation marks are nothing but text, as in GLUE."""
    return _literal(path, "unquoted-tsv")


def survey_tsv(piece: Piece) -> list[int]:
    """Return the different numbers of tabs in a part's lines; only the first line of a file counts though blank."""
    lines = split_lines(piece_text(piece))
    return sorted({line.count("\t") for i, line in enumerate(lines) if line or (i == 0 and piece.start == 0)})


def literal_rows(piece: Piece, columns: Sequence[str], wanted: Sequence[int]) -> Iterator[Row]:
    """Read lines that are split at every tab."""
    clean = _unquoted if piece.reader == "tsv" else str
    lines = split_lines(piece_text(piece))
    skip = 1 if piece.header else 0
    for number, line in enumerate(lines[skip:], start=piece.line + skip):
        if not line:
            continue
        values = line.split("\t")
        yield number, [clean(values[i]) for i in wanted] if len(values) == len(columns) else None


def quoted_rows(piece: Piece, columns: Sequence[str], wanted: Sequence[int]) -> Iterator[Row]:
    """Read quoted CSV."""
    records = _records(piece)
    if piece.header:
        next(records)
    width = len(columns)
    pick = itemgetter(*wanted) if len(wanted) > 1 else lambda values: [values[i] for i in wanted]
    for line, values in records:
        yield line, pick(values) if len(values) == width else None


def cut_quoted(path: Path, reader: str, size: int | None = None) -> Iterator[Piece]:
    """Cut a file of quoted records, never inside a quoted field: a part is as long as its last record wants.

    Args:
        path: the file.
        reader: the reader of the parts.
        size: bytes of a part at least; BLOCK unless given.
    """
    openers = _LINE_ENDS + _DELIMITERS[reader].encode()
    start, line = 0, 1
    with plain_read_errors(path), path.open("rb") as file:
        while block := file.read(size or BLOCK):
            block += file.readline() if not block.endswith(b"\n") else b""
            inside = _ends_inside(block, openers, begin=len(_BOM) if not start and block.startswith(_BOM) else 0)
            more = [block]
            while inside and (next_line := file.readline()):
                more.append(next_line)
                inside = _ends_inside(next_line, openers, inside=True)
            block = b"".join(more)
            yield Piece(str(path), reader, start, start + len(block), line, len(block))
            start += len(block)
            # As the csv module counts: a carriage return alone ends a line too.
            line += block.count(b"\n") + block.count(b"\r") - block.count(b"\r\n")


def _ends_inside(data: bytes, openers: bytes, *, begin: int = 0, inside: bool = False) -> bool:
    """Tell whether whole lines end within a quoted field.

    Args:
        data: the lines.
        openers: bytes after which a quotation mark opens a field; elsewhere it is text.
        begin: the first byte that counts.
        inside: whether the lines begin within a quoted field.
    """
    at = begin
    while True:
        if not inside:
            opening = data.find(b'"', at)
            if opening < 0:
                return False
            at = opening + 1
            if opening > begin and data[opening - 1] not in openers:
                continue
        closing = _TO_CLOSING.match(data, at)
        if closing is None:
            return True
        at, inside = closing.end(), False
        if at < len(data) and data[at] not in openers:
            # Not valid quoting: whoever reads this part will say so, and nothing after it is read.
            return False


def _literal(path: Path, reader: str) -> Table:
    check_not_empty(path)
    first = next(cut_lines(path, reader))
    clean = _unquoted if reader == "tsv" else str
    header = [clean(name) for name in split_lines(piece_text(first))[0].split("\t")]

    def pieces() -> Iterator[Piece]:
        return (replace(piece, header=piece.start == 0) for piece in cut_lines(path, reader))

    return piecewise(header, pieces, literal_rows)


def _quoted(path: Path, reader: str) -> Table:
    check_not_empty(path)
    for first in cut_quoted(path, reader):
        header = next((values for _, values in _records(first)), None)
        if header is not None:
            break
    else:
        raise DataError(f"{path}: the file is empty")

    def pieces() -> Iterator[Piece]:
        # What comes before the header is blank.
        found = (piece for piece in cut_quoted(path, reader) if piece.start >= first.start)
        return (replace(piece, header=piece.start == first.start) for piece in found)

    return piecewise(header, pieces, quoted_rows)


def _unquoted(field: str) -> str:
    if len(field) < 2 or not (field.startswith('"') and field.endswith('"')):
        return field
    inside = field[1:-1]
    if '"' in inside.replace('""', ""):
        return field
    return inside.replace('""', '"')


def _records(piece: Piece) -> Iterator[tuple[int, list[str]]]:
    """Yield (line on which the record starts, fields)."""
    csv.field_size_limit(_FIELD_LIMIT)
    lines = io.StringIO(piece_text(piece), newline="")
    reader = csv.reader(lines, delimiter=_DELIMITERS[piece.reader], strict=True)
    line = piece.line
    try:
        for values in reader:
            if values:
                yield line, values
            line = piece.line + reader.line_num
    except csv.Error as error:
        raise DataError(
            f"{piece.path}:{line}: not valid quoting in the record that starts here ({error}); "
            'a quotation mark inside a quoted field is written twice ("")'
        ) from None
