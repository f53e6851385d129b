"""Texts without labels, for prediction."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hrkd_cli.data.sources.columns import Columns, find_columns
from hrkd_cli.data.sources.formats import LINES, format_of
from hrkd_cli.data.sources.text_file import TextFile
from hrkd_cli.data.sources.values import UnusableError, as_text
from hrkd_cli.errors import DataError, UsageError


def read_texts(
    source: Path | Iterable[str], *, text: str | None = None, text_pair: str | None = None
) -> tuple[list[str], list[str] | None]:
    """Return texts, and second texts where there are any, one per row and in order.

    Args:
        source: a file of one of the formats of ``prepare``; any other file, or an iterable of lines (stdin), holds one
            text per line, blank lines left out.
        text: column of the text; None looks for the usual names, or takes the only column.
        text_pair: column of the second text.

    Raises:
        DataError: the file cannot be read, a column is not there, or a row has no text.
        UsageError: a column was named where there are none.
    """
    kind = format_of(source) if isinstance(source, Path) else None
    for option, value in (("--text", text), ("--text-pair", text_pair)):
        if value is not None and kind is None:
            raise UsageError(f"{option}: lines of text have no columns; give a CSV, TSV, JSONL or Parquet file")
    if not isinstance(source, Path):
        texts = [line for line in (line.rstrip("\r\n") for line in source) if line.strip()]
        if not texts:
            raise DataError("standard input: no text in it")
        return texts, None
    if not source.is_file():
        raise DataError(f"{source}: no such file")
    table = (kind or LINES).open(TextFile(source))
    named = Columns(text=text or (table.columns[0] if len(table.columns) == 1 else None), text_pair=text_pair)
    # Whatever the file is called, no domain and no label are needed.
    places = find_columns(
        table.columns, named, where=str(source), defaults=table.defaults, file_domain=True, needs_label=False
    )
    wanted = [places.text] if places.text_pair is None else [places.text, places.text_pair]
    rows: list[list[str]] = []
    for line, values in table.rows(wanted):
        # A row left out would shift every prediction after it away from its row, so none is.
        if values is None:
            raise DataError(f"{source}:{line}: wrong number of fields; expected {len(table.columns)}")
        try:
            rows.append([as_text(value) or "" for value in values])
        except UnusableError as problem:
            raise DataError(f"{source}:{line}: {problem.reason}") from None
    if not rows:
        raise DataError(f"{source}: no rows in it")
    return [row[0] for row in rows], [row[1] for row in rows] if len(wanted) > 1 else None
