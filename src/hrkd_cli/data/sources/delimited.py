"""CSV and TSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice

from hrkd_cli.data.sources.columns import Row, Table
from hrkd_cli.data.sources.text_file import TextFile
from hrkd_cli.errors import DataError

# The csv module refuses fields above 128 KiB unless told; this is the most that it takes on every platform.
_FIELD_LIMIT = 2**31 - 1
_SAMPLE = 1 << 16
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}

_Records = Callable[[], Iterator[tuple[int, list[str]]]]
"""Gives the line on which each record starts, and its fields; the first record is the header."""


def open_csv(file: TextFile) -> Table:
    """Open a file with a header, quoted as RFC 4180 says; the separator is found by its first records."""
    delimiter = _find_delimiter(file)
    note = None if delimiter == "," else f"{file.path}: fields are separated by {_SEPARATORS[delimiter]}"
    return _table(partial(_quoted, file, delimiter), note)


def open_tsv(file: TextFile) -> Table:
    """Open a tab-separated file with a header.

    Most TSV files are not quoted, and a text may begin with a quotation mark that is never closed. So when every line
    has as many tabs as the header, each field is taken as it stands, unquoted only where it is well-formed CSV
    quoting; else the file must be quoted CSV with tabs.
    """
    counts = {line.count("\t") for number, line in file.lines() if line or number == 1}
    return _table(partial(_literal, file, _unquoted) if len(counts) == 1 else partial(_quoted, file, "\t"))


def open_mnli(file: TextFile) -> Table:
    """Open one of GLUE's MNLI files, in which quotation marks are nothing but text."""
    return _table(partial(_literal, file, str))


def _table(records: _Records, note: str | None = None) -> Table:
    _, header = next(records())

    def rows(wanted: Sequence[int]) -> Iterator[Row]:
        for line, values in islice(records(), 1, None):
            yield line, [values[i] for i in wanted] if len(values) == len(header) else None

    return Table(header, rows, note)


def _literal(file: TextFile, clean: Callable[[str], str]) -> Iterator[tuple[int, list[str]]]:
    for number, line in file.lines():
        if line or number == 1:
            yield number, [clean(field) for field in line.split("\t")]


def _unquoted(field: str) -> str:
    if len(field) < 2 or not (field.startswith('"') and field.endswith('"')):
        return field
    inside = field[1:-1]
    return field if '"' in inside.replace('""', "") else inside.replace('""', '"')


def _quoted(file: TextFile, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    with file.open(newline="") as stream:
        reader = csv.reader(stream, delimiter=delimiter, strict=True)
        while True:
            line = reader.line_num + 1
            # The limit is the whole process's: it is raised only while a record is read.
            limit = csv.field_size_limit(_FIELD_LIMIT)
            try:
                values = next(reader, None)
            except csv.Error as error:
                raise DataError(
                    f"{file.path}:{line}: not valid quoting in the record that starts here ({error}); "
                    'a quotation mark inside a quoted field is written twice ("")'
                ) from None
            finally:
                csv.field_size_limit(limit)
            if values is None:
                return
            if values:
                yield line, values


def _find_delimiter(file: TextFile) -> str:
    """Return the separator that gives the first records the width of the header; the comma when in doubt."""
    with file.open(newline="") as stream:
        sample = stream.read(_SAMPLE)
    if len(sample) == _SAMPLE:
        sample = sample.rpartition("\n")[0] or sample
    best, most = ",", (0.0, 0)
    for delimiter in _SEPARATORS:
        try:
            widths = [len(values) for values in csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter)]
        except csv.Error:
            continue
        widths = [width for width in widths if width]
        fit = (widths.count(widths[0]) / len(widths), widths[0])
        if widths[0] > 1 and fit > most:
            best, most = delimiter, fit
    return best
