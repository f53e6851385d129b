"""CSV and TSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from hrkd_cli.data.sources.records import Row, Table
from hrkd_cli.data.sources.textfile import read_text, split_lines
from hrkd_cli.errors import DataError

# The csv module refuses fields above 128 KiB unless told; this is the most that it takes on every platform.
_FIELD_LIMIT = 2**31 - 1


def read_csv(path: Path) -> Table:
    """Read a comma-separated file with a header, quoted as RFC 4180 says."""
    return _quoted(path, read_text(path), ",")


def read_tsv(path: Path) -> Table:
    """Read a tab-separated file with a header.

    Most TSV files are not quoted, and a text may begin with a quotation mark that is never closed. So when every line
    has as many tabs as the header, each field is taken as it stands, unquoted only where it is well-formed CSV
    quoting; else the file must be quoted CSV with tabs.
    """
    text = read_text(path)
    lines = split_lines(text)
    tabs = lines[0].count("\t")
    if all(not line or line.count("\t") == tabs for line in lines):
        return _literal(lines, unquote=True)
    return _quoted(path, text, "\t")


def read_tsv_unquoted(path: Path) -> Table:
    """Read a tab-separated file in which quotation marks are nothing but text, as in GLUE."""
    return _literal(split_lines(read_text(path)), unquote=False)


def _literal(lines: Sequence[str], *, unquote: bool) -> Table:
    clean = _unquoted if unquote else str
    header = [clean(name) for name in lines[0].split("\t")]

    def rows(wanted: Sequence[int]) -> Iterator[Row]:
        for number, line in enumerate(lines[1:], start=2):
            if not line:
                continue
            values = line.split("\t")
            yield number, [clean(values[i]) for i in wanted] if len(values) == len(header) else None

    return Table(header, rows)


def _unquoted(field: str) -> str:
    if len(field) < 2 or not (field.startswith('"') and field.endswith('"')):
        return field
    inside = field[1:-1]
    if '"' in inside.replace('""', ""):
        return field
    return inside.replace('""', '"')


def _quoted(path: Path, text: str, delimiter: str) -> Table:
    records = _records(path, text, delimiter)
    _, header = next(records)

    def rows(wanted: Sequence[int]) -> Iterator[Row]:
        for line, values in records:
            yield line, [values[i] for i in wanted] if len(values) == len(header) else None

    return Table(header, rows)


def _records(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line on which the record starts, fields)."""
    csv.field_size_limit(_FIELD_LIMIT)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f"{path}:{line}: not valid quoting in the record that starts here ({error}); "
                'a quotation mark inside a quoted field is written twice ("")'
            ) from None
        if values:
            yield line, values
