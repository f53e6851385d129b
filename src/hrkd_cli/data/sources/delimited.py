"""CSV and TSV files."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice, product
from typing import IO, Any

from hrkd_cli.data.sources.row_reader import RowReader, make_reader
from hrkd_cli.data.sources.text_file import TextFile
from hrkd_cli.errors import DataError

# The csv module's default is 128 KiB; this is the largest value that all platforms accept.
_MAX_FIELD_SIZE = 2**31 - 1
_SAMPLE_SIZE = 1 << 20
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_QUOTINGS = {"\\": "quotation marks in fields follow a backslash", "'": "fields are in single quotes"}

_IterRecords = Callable[[], Iterator[tuple[int, list[str]]]]
"""Yields the first line number and the fields of each record; the first record is the header."""


def open_csv(file: TextFile) -> RowReader:
    """Open a CSV file with a header; delimiter and quoting (that of RFC 4180, if possible) are detected."""
    delimiter, quoting = _detect_dialect(file)
    details = [] if delimiter == "," else [f"fields are separated by {DELIMITERS[delimiter]}"]
    details += [_QUOTINGS[quoting]] if quoting else []
    note = f"{file.path}: {', '.join(details)}" if details else None
    return _make_reader(file, partial(_iter_quoted, file, delimiter, quoting), note)


def open_tsv(file: TextFile) -> RowReader:
    """Open a tab-separated file with a header.

    Most TSV files are not quoted, and a text may start with a quotation mark that is never closed. So each field is
    taken literally and only well-formed CSV quoting is removed, unless more of the records are as wide as the header if
    the file is read as quoted CSV with tabs.
    """
    literal, quoted = partial(_iter_literal, file, _unquote), partial(_iter_quoted, file, "\t")
    regular = _regularity(literal)
    return _make_reader(file, literal if regular == 1 or regular >= _regularity(quoted) else quoted)


def _regularity(iter_records: _IterRecords) -> float:
    """Return the share of the records that are as wide as the header; 0 if they cannot be read."""
    try:
        widths = [len(fields) for _, fields in iter_records()]
    except DataError:
        return 0.0
    return widths.count(widths[0]) / len(widths) if widths else 0.0


def open_mnli(file: TextFile) -> RowReader:
    """Open one of GLUE's MNLI files, in which quotation marks are plain text."""
    return _make_reader(file, partial(_iter_literal, file, str))


def is_tab_separated(lines: Sequence[str]) -> bool:
    """Return whether all lines have the same number of fields, at least two, taken literally or as quoted CSV."""
    literal = {line.count("\t") for line in lines}
    quoted = {len(fields) for fields in csv.reader(lines, delimiter="\t")}
    return "\t" in lines[0] and 1 in (len(literal), len(quoted))


def _make_reader(file: TextFile, iter_records: _IterRecords, note: str | None = None) -> RowReader:
    _, first = next(iter_records(), (0, None))
    if first is None:
        raise DataError(f"{file.path}: the file is empty")
    header = first if file.has_header else [str(number) for number in range(1, len(first) + 1)]
    first_row = 1 if file.has_header else 0
    return make_reader(header, lambda: islice(iter_records(), first_row, None), note)


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


def _csv_reader(stream: IO[str], delimiter: str, quoting: str) -> Any:
    """Return a strict reader; ``quoting`` is one of ``_QUOTINGS``, or empty for that of RFC 4180."""
    escape = "\\" if quoting == "\\" else None
    quote = "'" if quoting == "'" else '"'
    return csv.reader(stream, delimiter=delimiter, escapechar=escape, quotechar=quote, strict=True)


def _iter_quoted(file: TextFile, delimiter: str, quoting: str = "") -> Iterator[tuple[int, list[str]]]:
    # Files from old Macs end their lines with carriage returns alone. In others, one would cut a record in two.
    newline = "\n" if b"\n" in file.head() else ""
    with file.open(newline) as stream:
        reader = _csv_reader(stream, delimiter, quoting)
        while True:
            line = reader.line_num + 1
            # The limit is process-wide, so it is raised only while a record is read.
            limit = csv.field_size_limit(_MAX_FIELD_SIZE)
            try:
                fields = next(reader, None)
            except csv.Error as error:
                raise DataError(f"{file.path}:{line}: {_csv_error(error)}") from None
            finally:
                csv.field_size_limit(limit)
            if fields is None:
                return
            if fields and not (line == 1 and _is_separator_line(fields[0])):
                yield line, fields


def _csv_error(error: csv.Error) -> str:
    if "new-line character" in str(error):
        return "a carriage return in a field that is not in quotation marks; remove it, or quote the field"
    return (
        f"not valid quoting in the record that starts here ({error}); "
        'a quotation mark inside a quoted field is written twice ("")'
    )


def _is_separator_line(line: str) -> bool:
    return line.lower().startswith("sep=")  # "sep=;" tells Excel the delimiter


def _detect_dialect(file: TextFile) -> tuple[str, str]:
    """Return delimiter and quoting with which most of the first records are as wide as the header.

    The default is the comma and the quoting of RFC 4180. Another quoting needs its characters in the file.
    """
    with file.open(newline="") as stream:
        sample = stream.read(_SAMPLE_SIZE)
    if len(sample) == _SAMPLE_SIZE:
        sample = sample.rpartition("\n")[0] or sample
    if _is_separator_line(sample):
        sample = sample.partition("\n")[2] or sample
    others = [*(["\\"] if '\\"' in sample else []), *(["'"] if '"' not in sample else [])]
    best, best_score = (",", ""), (0.0, 0)
    for dialect in product(DELIMITERS, ["", *others]):
        widths = []
        try:
            for fields in _csv_reader(io.StringIO(sample, newline=""), *dialect):
                widths += [len(fields)] if fields else []
        except csv.Error:
            widths.append(0)  # a record that cannot be read; the sample may also end within one
        score = (widths.count(widths[0]) / len(widths), widths[0]) if widths else (0.0, 0)
        if score[1] > 1 and score > best_score:
            best, best_score = dialect, score
    return best
