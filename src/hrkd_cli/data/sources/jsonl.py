"""JSON, an object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hrkd_cli.data.sources.records import Piece, Row, Survey, Table, piecewise
from hrkd_cli.data.sources.textfile import check_not_empty, cut_lines, piece_text, split_lines
from hrkd_cli.errors import DataError


def read_jsonl(path: Path, survey: Survey) -> Table:
    """Read a file with a JSON object on every line that is not blank; a key that a line lacks is a null there.

    Args:
        path: the file.
        survey: runs ``survey_jsonl`` over the parts of the file.
    """
    check_not_empty(path)
    pieces = partial(cut_lines, path, "jsonl")
    columns = list(dict.fromkeys(key for keys in survey(pieces()) for key in keys))
    return piecewise(columns, pieces, jsonl_rows)


def survey_jsonl(piece: Piece) -> list[str]:
    """Return the keys of a part's objects, in the order in which they are first seen."""
    return list(dict.fromkeys(key for _, item in _objects(piece) for key in item))


def jsonl_rows(piece: Piece, columns: Sequence[str], wanted: Sequence[int]) -> Iterator[Row]:
    """Read lines that are JSON objects."""
    names = [columns[i] for i in wanted]
    for line, item in _objects(piece):
        yield line, [item.get(name) for name in names]


def _objects(piece: Piece) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(split_lines(piece_text(piece)), start=piece.line):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        # ValueError also covers a number with thousands of digits; RecursionError thousands of brackets.
        except (ValueError, RecursionError) as error:
            raise DataError(f"{piece.path}:{number}: not valid JSON ({_reason(error)}); a line is an object") from None
        if not isinstance(item, dict):
            raise DataError(
                f'{piece.path}:{number}: not a JSON object; a line looks like {{"text": "...", "label": "..."}}'
            )
        yield number, item


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, column {error.colno}"
    return str(error)
