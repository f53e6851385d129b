"""The registry of formats: one entry per format, found by suffix or by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hrkd_cli.choices import SourceFormat
from hrkd_cli.data.sources import amazon, arrow, delimited, json_objects
from hrkd_cli.data.sources.columns import Row, Table
from hrkd_cli.data.sources.text_file import TextFile, split_name


@dataclass(frozen=True, slots=True)
class Format:
    """A format of files.

    Attributes:
        opener: opens a file.
        suffixes: ends of names of such files.
        alone: ends of names that are read only when the file is the source itself: in a folder such a file is more
            often something about the data.
        name: its name for ``--format``, if any.
    """

    opener: Callable[[TextFile], Table]
    suffixes: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()
    name: SourceFormat | None = None

    def open(self, path: Path, encoding: str | None = None) -> Table:
        """Open a file.

        Args:
            path: the file.
            encoding: its encoding; None takes a byte order mark's, else UTF-8.

        Raises:
            DataError: it cannot be read or parsed, or is empty.
        """
        file = TextFile(path, encoding)
        file.check_not_empty()
        return self.opener(file)


def _open_lines(file: TextFile) -> Table:
    """Open a file with one text per line; blank lines are no texts."""

    def rows(wanted: Sequence[int]) -> Iterator[Row]:
        return ((number, [line for _ in wanted]) for number, line in file.lines() if line.strip())

    return Table(["text"], rows)


LINES = Format(_open_lines, (".txt", ""))
"""Texts without labels."""
FORMATS = (
    Format(delimited.open_csv, (".csv",), name=SourceFormat.CSV),
    Format(delimited.open_tsv, (".tsv",), (".tab",), SourceFormat.TSV),
    Format(json_objects.open_json, (".jsonl", ".ndjson"), (".json",), SourceFormat.JSONL),
    Format(arrow.open_parquet, (".parquet",), (".pq",), SourceFormat.PARQUET),
    Format(amazon.open_reviews, (".review",), name=SourceFormat.AMAZON),
    Format(delimited.open_mnli, name=SourceFormat.MNLI),
    LINES,
)


def named_format(name: SourceFormat) -> Format:
    """Return the format of a name."""
    return next(entry for entry in FORMATS if entry.name is name)


def format_of(path: Path, *, alone: bool = True, labelled: bool = True) -> Format | None:
    """Return the format of a file by the end of its name, ``.gz`` and ``.zst`` aside; None where there is none.

    Args:
        path: the file.
        alone: whether the file is the source itself.
        labelled: whether there must be labels.
    """
    _, suffix = split_name(path)
    for entry in FORMATS:
        if suffix in entry.suffixes or (alone and suffix in entry.alone):
            return None if labelled and entry is LINES else entry
    return None
