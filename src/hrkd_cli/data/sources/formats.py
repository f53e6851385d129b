"""The registry of formats: one entry per format, found by suffix or by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hrkd_cli.choices import SourceFormat
from hrkd_cli.data.sources import amazon, delimited, json_objects, parquet
from hrkd_cli.data.sources.table import Row, Table
from hrkd_cli.data.sources.text_file import TextFile, plain_suffix
from hrkd_cli.errors import DataError


@dataclass(frozen=True, slots=True)
class Format:
    """A format of files.

    Attributes:
        open: opens a file.
        suffixes: ends of names of such files.
        alone: ends of names that are read only when the file is the source itself: in a folder such a file is more
            often something about the data.
        name: its name for ``--format``, if any.
        labelled: whether the files may have labels.
    """

    open: Callable[[TextFile], Table]
    suffixes: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()
    name: SourceFormat | None = None
    labelled: bool = True


def _open_lines(file: TextFile) -> Table:
    """Open a file with one text per line; blank lines are no texts."""
    file.check_not_empty()

    def rows(wanted: Sequence[int]) -> Iterator[Row]:
        return ((number, [line for _ in wanted]) for number, line in file.lines() if line.strip())

    return Table(["text"], rows)


FORMATS = (
    Format(delimited.open_csv, (".csv",), name=SourceFormat.CSV),
    Format(delimited.open_tsv, (".tsv",), (".tab",), SourceFormat.TSV),
    Format(json_objects.open_json, (".jsonl", ".ndjson"), (".json",), SourceFormat.JSONL),
    Format(parquet.open_parquet, (".parquet",), (".pq",), SourceFormat.PARQUET),
    Format(amazon.open_reviews, (".review",), name=SourceFormat.AMAZON),
    Format(delimited.open_mnli, name=SourceFormat.MNLI),
)
LINES = Format(_open_lines, (".txt", ""), labelled=False)


def named_format(name: SourceFormat) -> Format:
    """Return the format of a name."""
    return next(entry for entry in FORMATS if entry.name is name)


def format_of(path: Path, *, alone: bool = True) -> Format | None:
    """Return the format of a file by the end of its name, ``.gz`` and ``.zst`` aside; None where it is of no table.

    Args:
        path: the file.
        alone: whether the file is the source itself.
    """
    suffix = plain_suffix(path)
    return next((f for f in FORMATS if suffix in f.suffixes or (alone and suffix in f.alone)), None)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file to read.

    Attributes:
        path: where it is, as the user would name it.
        name: its path relative to the source, with ``/``.
        format: how it is read.
        domain: the domain that file or folder name stands for; None when a column has to say it.
        split: the split that the file name stands for, if any.
    """

    path: Path
    name: str
    format: Format
    domain: str | None = None
    split: str | None = None

    def open(self, encoding: str | None = None) -> Table:
        """Open the file.

        Raises:
            DataError: it cannot be read or parsed.
        """
        if not self.path.is_file():
            raise DataError(f"{self.path}: cannot be read: No such file or directory")
        return self.format.open(TextFile(self.path, encoding))
