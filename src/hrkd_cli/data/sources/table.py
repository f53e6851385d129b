"""What a reader makes of a file, and what a format is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from hrkd_cli.data.sources.columns import Columns

Row = tuple[int, Sequence[object] | None]
"""Line, and values of the columns that were asked for; None for a row with the wrong number of fields."""


@dataclass(frozen=True, slots=True)
class Table:
    """A file with columns. Nothing is held: rows are read anew each time.

    Attributes:
        columns: column names, in order.
        rows: given column numbers, yields rows. A row's line is where it starts (its number, from 1, in formats without
            lines).
        defaults: columns that mean something by the format's own rules, tried before the usual names.
        label: label of the whole file, in formats that give it by file name.
        note: what the reader decided and the user should know.
        relation: the same rows as a DuckDB table function with columns ``c0``, ``c1``, ..., where DuckDB may read them
            faster; the result counts only if DuckDB rejects no line.
    """

    columns: list[str]
    rows: Callable[[Sequence[int]], Iterator[Row]]
    defaults: Columns = field(default_factory=Columns)
    label: str | None = None
    note: str | None = None
    relation: str | None = None
