"""What readers and their users hand to each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from hrkd_cli.choices import SourceFormat


class Reason(StrEnum):
    """Why a row is not in the dataset; the keys of ``dropped`` in results."""

    FIELDS = "wrong number of fields"
    NOT_TEXT = "not text"
    UNICODE = "not valid Unicode"
    NO_TEXT = "empty text"
    NO_PAIR = "empty second text"
    NO_LABEL = "no label"
    NO_DOMAIN = "no domain"
    SPLIT = "unknown split"
    IN_TEST = "text also in test"
    IN_DEV = "text also in dev"
    DUPLICATE = "duplicate"
    CONFLICT = "duplicate with another label"


@dataclass(frozen=True, slots=True)
class Example:
    """A labelled row, and where it came from.

    Attributes:
        text: the first text.
        text_pair: the second text; None in a task with one.
        label: label name.
        domain: domain name.
        split: ``train``, ``dev`` or ``test`` where the source says so.
        file: the file, as the user would name it.
        line: 1-based line on which the row starts (its number, in formats without lines).
    """

    text: str
    text_pair: str | None
    label: str
    domain: str
    split: str | None
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row that is not in the dataset. ``domain`` is None where even that could not be read."""

    reason: Reason
    domain: str | None
    file: str
    line: int

    @property
    def place(self) -> str:
        """``file:line``."""
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Column names that the user gave; None means "look for the usual ones"."""

    text: str | None = None
    text_pair: str | None = None
    label: str | None = None
    domain: str | None = None
    split: str | None = None

    def named(self) -> dict[str, str]:
        """Return what was named."""
        pairs = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in pairs if value is not None}


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file to read.

    Attributes:
        path: where it is, as the user would name it.
        name: its path relative to the source, with ``/``.
        format: which reader reads it.
        domain: the domain that file or folder name stands for; None when a column has to say it.
        split: the split that the file name stands for, if any.
    """

    path: Path
    name: str
    format: SourceFormat
    domain: str | None = None
    split: str | None = None


Row = tuple[int, Sequence[object] | None]


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a file that begins and ends between records, small enough to be held in memory.

    Attributes:
        path: the file.
        reader: which reader reads it, a key of ``pieces.READERS``.
        start: first byte; first row group in formats that have them.
        stop: the byte (row group) after the last.
        line: line (row number) of the first record.
        bytes: its size in the file.
        header: whether the first record holds the column names.
    """

    path: str
    reader: str
    start: int
    stop: int
    line: int
    bytes: int
    header: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """What a reader makes of a file. Nothing is held: rows are read anew each time that they are asked for.

    Attributes:
        columns: column names, in order.
        rows: given column numbers, yields (line, values of those columns). Values are None for a row with the wrong
            number of fields.
        pieces: yields the parts of the file, which can be read apart from each other; None where there are none.
        defaults: columns that mean something by the format's own rules, tried before the usual names.
        label: label of the whole file, in formats that give it by file name.
    """

    columns: list[str]
    rows: Callable[[Sequence[int]], Iterable[Row]]
    pieces: Callable[[], Iterator[Piece]] | None = None
    defaults: Columns = field(default_factory=Columns)
    label: str | None = None


Survey = Callable[[Iterable[Piece]], Iterable[list[Any]]]
"""Looks at every part of a file, in order, where what its columns mean depends on all of it."""


def piecewise(
    columns: list[str],
    pieces: Callable[[], Iterator[Piece]],
    read: Callable[[Piece, Sequence[str], Sequence[int]], Iterator[Row]],
    *,
    defaults: Columns | None = None,
    label: str | None = None,
) -> Table:
    """Return the table of a file that ``read`` reads piece by piece, given a piece, all columns and those wanted."""

    def rows(wanted: Sequence[int]) -> Iterator[Row]:
        for piece in pieces():
            yield from read(piece, columns, wanted)

    return Table(columns, rows, pieces, defaults or Columns(), label)
