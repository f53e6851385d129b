"""CSV and TSV files."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice

from hrkd_cli.data.sources.row_reader import RowReader, SourceRow
from hrkd_cli.data.sources.text_file import TextFile
from hrkd_cli.errors import DataError

# The csv module's default is 128 KiB; this is the largest value that all platforms accept.
_MAX_FIELD_SIZE = 2**31 - 1
_SAMPLE_SIZE = 1 << 16
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}

_IterRecords = Callable[[], Iterator[tuple[int, list[str]]]]
"""Yields the first line number and the fields of each record; the first record is the header."""


def open_csv(file: TextFile) -> RowReader:
    """Open a CSV file with a header, quoted as in RFC 4180; the delimiter is detected from its first records."""
    delimiter = _detect_delimiter(file)
    note = None if delimiter == "," else f"{file.path}: fields are separated by {_DELIMITERS[delimiter]}"
    return _make_reader(file, partial(_iter_quoted, file, delimiter), note)


def open_tsv(file: TextFile) -> RowReader:
    """Open a tab-separated file with a header.

    Most TSV files are not quoted, and a text may start with a quotation mark that is never closed. So if all lines have
    as many tabs as the header, each field is taken literally and only well-formed CSV quoting is removed. Otherwise the
    file is read as quoted CSV with tabs.
    """
    tab_counts = {line.count("\t") for number, line in file.lines() if line or number == 1}
    if len(tab_counts) == 1:
        return _make_reader(file, partial(_iter_literal, file, _unquote))
    return _make_reader(file, partial(_iter_quoted, file, "\t"))


def open_mnli(file: TextFile) -> RowReader:
    """Open one of GLUE's MNLI files, in which quotation marks are plain text."""
    return _make_reader(file, partial(_iter_literal, file, str))


def _make_reader(file: TextFile, iter_records: _IterRecords, note: str | None = None) -> RowReader:
    _, first = next(iter_records())
    header = first if file.has_header else [str(number) for number in range(1, len(first) + 1)]

    def iter_rows(indices: Sequence[int]) -> Iterator[SourceRow]:
        for line, fields in islice(iter_records(), int(file.has_header), None):
            yield line, [fields[index] for index in indices] if len(fields) == len(header) else None

    return RowReader(header, iter_rows, note, header_is_line=file.has_header)


def _iter_literal(file: TextFile, clean: Callable[[str], str]) -> Iterator[tuple[int, list[str]]]:
    for number, line in file.lines():
        if line or number == 1:
            yield number, [clean(field) for field in line.split("\t")]


def _unquote(field: str) -> str:
    """Remove CSV quoting if it is well-formed."""
    if len(field) < 2 or not (field.startswith('"') and field.endswith('"')):
        return field
    inside = field[1:-1]
    return field if '"' in inside.replace('""', "") else inside.replace('""', '"')


def _iter_quoted(file: TextFile, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    with file.open(newline="") as stream:
        reader = csv.reader(stream, delimiter=delimiter, strict=True)
        while True:
            line = reader.line_num + 1
            # The limit is process-wide, so it is raised only while a record is read.
            limit = csv.field_size_limit(_MAX_FIELD_SIZE)
            try:
                fields = next(reader, None)
            except csv.Error as error:
                raise DataError(
                    f"{file.path}:{line}: not valid quoting in the record that starts here ({error}); "
                    'a quotation mark inside a quoted field is written twice ("")'
                ) from None
            finally:
                csv.field_size_limit(limit)
            if fields is None:
                return
            if fields:
                yield line, fields


def _detect_delimiter(file: TextFile) -> str:
    """Return the delimiter with which most of the first records are as wide as the header; by default the comma."""
    with file.open(newline="") as stream:
        sample = stream.read(_SAMPLE_SIZE)
    if len(sample) == _SAMPLE_SIZE:
        sample = sample.rpartition("\n")[0] or sample
    best, best_score = ",", (0.0, 0)
    for delimiter in _DELIMITERS:
        try:
            records = list(csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter))
        except csv.Error:
            continue
        widths = [len(fields) for fields in records if fields]
        score = (widths.count(widths[0]) / len(widths), widths[0])
        if widths[0] > 1 and score > best_score:
            best, best_score = delimiter, score
    return best
