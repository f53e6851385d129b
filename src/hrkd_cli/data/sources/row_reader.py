"""Common interface of all formats: an opened file has column names and iterates over rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hrkd_cli.errors import DataError

SourceRow = tuple[int, Sequence[object] | None]
"""Line number, and the values of the requested columns; None for a row with the wrong number of fields."""


@dataclass(frozen=True, slots=True)
class RowReader:
    """Reads the rows of an opened file. Nothing is cached: each iteration reads the file again.

    Attributes:
        columns: column names, in order.
        iter_rows: yields the rows, with the values of the given column indices. The line number is that of the row's
            first line (the row number, from 1, in formats without lines).
        note: a decision of the reader that the user should know about.
    """

    columns: list[str]
    iter_rows: Callable[[Sequence[int]], Iterator[SourceRow]]
    note: str | None = None


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file to read, or a split loaded by the ``datasets`` library.

    Attributes:
        display_name: name in messages.
        open: opens it. Arguments: its encoding (None means that of the byte order mark, else UTF-8), and whether its
            first line has the column names (default true).
        domain: domain given by the file or folder name; None if a column must give it.
        split: split given by the name, if any.
        path: the file; None if ``datasets`` reads it.
        relative_path: path relative to the source, with ``/``.
        is_only_domain: the names of all files give this domain, so it may be the name of the data: any domain column
            overrides it.
    """

    display_name: str
    open: Callable[..., RowReader]
    domain: str | None = None
    split: str | None = None
    path: Path | None = None
    relative_path: str = ""
    is_only_domain: bool = False


def check_open_options(name: object, encoding: str | None = None, has_header: bool = True) -> None:
    """Check the arguments of ``SourceFile.open`` where they have no effect; None and true if they have one.

    Raises:
        DataError: an encoding is given, or that there is no header. ``name`` is that of the file.
    """
    if not has_header:
        raise DataError(f"{name}: --no-header is for CSV and TSV files only")
    if encoding is not None:
        raise DataError(f"{name}: --encoding is for text files only")


def make_reader(
    columns: list[str],
    iter_rows: Callable[[], Iterator[tuple[int, Sequence[object]]]],
    note: str | None = None,
) -> RowReader:
    """Return a reader of (line number, values of all columns) pairs."""

    def select(indices: Sequence[int]) -> Iterator[SourceRow]:
        for line, values in iter_rows():
            yield line, [values[index] for index in indices] if len(values) == len(columns) else None

    return RowReader(columns, select, note)


def make_object_reader(iter_objects: Callable[[], Iterator[tuple[int, Mapping[str, object]]]]) -> RowReader:
    """Return a reader of (line number, object) pairs; a key that an object lacks is null."""
    columns = list(dict.fromkeys(key for _, item in iter_objects() for key in item))
    return make_reader(columns, lambda: ((line, [*map(item.get, columns)]) for line, item in iter_objects()))
