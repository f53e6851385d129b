"""Texts without labels, for prediction."""

from __future__ import annotations

from pathlib import Path

from hrkd_cli.data.sources.columns import find_columns
from hrkd_cli.data.sources.formats import LINES, format_of
from hrkd_cli.data.sources.values import UnusableError, as_text
from hrkd_cli.errors import DataError, UsageError


def read_texts(
    source: Path, *, text: str | None = None, text_pair: str | None = None
) -> tuple[list[str], list[str] | None]:
    """Return texts, and second texts where there are any, one per row and in order.

    Args:
        source: a file of one of the formats of ``prepare``; any other file holds one text per line, blank lines left
            out.
        text: column of the text; None looks for the usual names, or takes the only column.
        text_pair: column of the second text.

    Raises:
        DataError: the file cannot be read, a column is not there, or a row has no text.
        UsageError: a column was named where there are none.
    """
    named = {role: name for role, name in (("text", text), ("text_pair", text_pair)) if name is not None}
    kind = format_of(source, labelled=False) or LINES
    if kind is LINES and named:
        option = "--text" if "text" in named else "--text-pair"
        raise UsageError(f"{option}: lines of text have no columns; give a CSV, TSV, JSONL or Parquet file")
    table = kind.open(source)
    # Whatever the file is called, no domain and no label are needed.
    places = find_columns(table, named, where=str(source), file_domain=True, labelled=False)
    wanted = [places[role] for role in ("text", "text_pair") if role in places]
    rows: list[list[str]] = []
    for line, values in table.rows(wanted):
        # A row left out would shift every prediction after it away from its row, so none is.
        if values is None:
            raise DataError(f"{source}:{line}: wrong number of fields; expected {len(table.columns)}")
        try:
            rows.append([as_text(value) or "" for value in values])
        except UnusableError as problem:
            raise DataError(f"{source}:{line}: {problem}") from None
    if not rows:
        raise DataError(f"{source}: no rows in it")
    return [row[0] for row in rows], [row[1] for row in rows] if len(wanted) > 1 else None
