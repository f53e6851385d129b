"""Texts to predict, read from a file."""

from __future__ import annotations

from pathlib import Path

from hrkd_cli.data.sources.columns import resolve_columns
from hrkd_cli.data.sources.formats import PLAIN_TEXT, detect_format
from hrkd_cli.data.sources.values import InvalidTextError, to_text
from hrkd_cli.errors import DataError, UsageError


def read_texts(
    source: Path, *, text: str | None = None, text_pair: str | None = None
) -> tuple[list[str], list[str] | None]:
    """Return first and second texts (None if there are none), one per row and in order.

    Args:
        source: a file in one of the formats of ``prepare``; any other file has one text per line, and its blank lines
            are skipped.
        text: column of the text; None finds it by common names, or uses the only column.
        text_pair: column of the second text.

    Raises:
        DataError: the file cannot be read, a column does not exist, or a row has no text.
        UsageError: a column is named for a file without columns.
    """
    named = {role: name for role, name in (("text", text), ("text_pair", text_pair)) if name is not None}
    file_format = detect_format(source, require_label=False) or PLAIN_TEXT
    if file_format is PLAIN_TEXT and named:
        option = "--text" if "text" in named else "--text-pair"
        raise UsageError(f"{option}: lines of text have no columns; give a CSV, TSV, JSONL or Parquet file")
    reader = file_format.open(source)
    # Neither domain nor label is needed.
    columns = resolve_columns(reader.columns, named, file=str(source), file_names_domain=True, require_label=False)
    roles = [role for role in ("text", "text_pair") if role in columns]
    rows: list[list[str]] = []
    for line, values in reader.iter_rows([columns[role] for role in roles]):
        # Skipping a row would assign all later predictions to the wrong rows.
        if values is None:
            raise DataError(f"{source}:{line}: wrong number of fields; expected {len(reader.columns)}")
        try:
            rows.append([to_text(value) or "" for value in values])
        except InvalidTextError as error:
            raise DataError(f"{source}:{line}: {error}") from None
    if not rows:
        raise DataError(f"{source}: no rows in it")
    return [row[0] for row in rows], [row[1] for row in rows] if len(roles) > 1 else None
