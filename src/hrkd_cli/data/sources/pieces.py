"""A file's format to its reader, and a piece's reader to the functions that survey and read it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hrkd_cli.choices import SourceFormat
from hrkd_cli.data.sources.amazon import amazon_rows, read_amazon, survey_amazon
from hrkd_cli.data.sources.delimited import (
    literal_rows,
    quoted_rows,
    read_csv,
    read_tsv,
    read_tsv_unquoted,
    survey_tsv,
)
from hrkd_cli.data.sources.jsonl import jsonl_rows, read_jsonl, survey_jsonl
from hrkd_cli.data.sources.parquet import parquet_rows, read_parquet
from hrkd_cli.data.sources.records import Piece, Row, Survey, Table

READERS: dict[str, Callable[[Piece, Sequence[str], Sequence[int]], Iterator[Row]]] = {
    "amazon": amazon_rows,
    "csv": quoted_rows,
    "jsonl": jsonl_rows,
    "parquet": parquet_rows,
    "quoted-tsv": quoted_rows,
    "tsv": literal_rows,
    "unquoted-tsv": literal_rows,
}
_SURVEYORS: dict[str, Callable[[Piece], list[Any]]] = {
    "amazon": survey_amazon,
    "jsonl": survey_jsonl,
    "tsv": survey_tsv,
}


def survey_here(pieces: Iterable[Piece]) -> Iterator[list[Any]]:
    """Survey pieces one after the other, in this process."""
    return (survey_piece(piece) for piece in pieces)


def survey_piece(piece: Piece) -> list[Any]:
    """Survey one piece by its reader's rules."""
    return _SURVEYORS[piece.reader](piece)


def open_table(path: Path, kind: SourceFormat, survey: Survey = survey_here) -> Table:
    """Return the table of a file; nothing of it is held.

    Args:
        path: the file.
        kind: its format; not ``auto`` and not ``hub``.
        survey: what looks over the whole of a file first, where its format needs that.

    Raises:
        DataError: the file cannot be read or parsed.
    """
    match kind:
        case SourceFormat.AMAZON:
            return read_amazon(path, survey)
        case SourceFormat.MNLI:
            return read_tsv_unquoted(path)
        case SourceFormat.CSV:
            return read_csv(path)
        case SourceFormat.TSV:
            return read_tsv(path, survey)
        case SourceFormat.JSONL:
            return read_jsonl(path, survey)
        case SourceFormat.PARQUET:
            return read_parquet(path)
    raise ValueError(f"no reader of {kind} files")
