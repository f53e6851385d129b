"""Texts without labels, for prediction. Only Parquet needs pyarrow: the rest works on a device that lacks it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hrkd_cli.choices import SourceFormat
from hrkd_cli.data.sources.columns import find_columns
from hrkd_cli.data.sources.pieces import open_table
from hrkd_cli.data.sources.records import Columns
from hrkd_cli.data.sources.textfile import read_text, split_lines
from hrkd_cli.data.sources.values import UnusableError, as_text
from hrkd_cli.errors import DataError, UsageError

_FORMATS = {
    ".csv": SourceFormat.CSV,
    ".tsv": SourceFormat.TSV,
    ".tab": SourceFormat.TSV,
    ".jsonl": SourceFormat.JSONL,
    ".ndjson": SourceFormat.JSONL,
    ".json": SourceFormat.JSONL,
    ".parquet": SourceFormat.PARQUET,
    ".pq": SourceFormat.PARQUET,
}


def read_texts(
    source: Path | Iterable[str], *, text: str | None = None, text_pair: str | None = None
) -> tuple[list[str], list[str] | None]:
    """Return texts, and second texts where there are any, a row each and in order.

    Args:
        source: a CSV, TSV, JSONL or Parquet file; any other file, or an iterable of lines (stdin), is a text a line,
            blank lines left out.
        text: column of the text; None looks for the usual names, or takes the only column.
        text_pair: column of the second text.

    Raises:
        DataError: the file cannot be read, a column is not there, or a row has no text.
        UsageError: a column was named where there are none.
    """
    if isinstance(source, Path) and source.suffix.lower() in _FORMATS:
        return _from_table(source, Columns(text=text, text_pair=text_pair))
    for option, value in (("--text", text), ("--text-pair", text_pair)):
        if value is not None:
            raise UsageError(f"{option}: lines of text have no columns; give a CSV, TSV, JSONL or Parquet file")
    if isinstance(source, Path):
        if not source.is_file():
            raise DataError(f"{source}: no such file")
        lines: Iterable[str] = split_lines(read_text(source))
    else:
        lines = (line.rstrip("\r\n") for line in source)
    texts = [line for line in lines if line.strip()]
    if not texts:
        raise DataError(f"{source if isinstance(source, Path) else 'standard input'}: no text in it")
    return texts, None


def _from_table(path: Path, named: Columns) -> tuple[list[str], list[str] | None]:
    table = open_table(path, _FORMATS[path.suffix.lower()])
    if len(table.columns) == 1 and named.text is None:
        named = Columns(text=table.columns[0], text_pair=named.text_pair)
    # Whatever the file is called, no domain and no label are needed.
    places = find_columns(table.columns, named, where=str(path), file_domain=True, needs_label=False)
    wanted = [places.text] if places.text_pair is None else [places.text, places.text_pair]
    rows: list[list[str]] = []
    for line, values in table.rows(wanted):
        # A row left out would shift every prediction after it away from its row, so none is.
        if values is None:
            raise DataError(f"{path}:{line}: wrong number of fields; expected {len(table.columns)}")
        try:
            rows.append([as_text(value, None) for value in values])
        except UnusableError as problem:
            raise DataError(f"{path}:{line}: {problem.reason}") from None
    if not rows:
        raise DataError(f"{path}: no rows in it")
    return [row[0] for row in rows], [row[1] for row in rows] if len(wanted) > 1 else None
