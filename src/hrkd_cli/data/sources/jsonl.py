"""JSON, an object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hrkd_cli.data.sources.records import Row, Table
from hrkd_cli.data.sources.textfile import read_text, split_lines
from hrkd_cli.errors import DataError


def read_jsonl(path: Path) -> Table:
    """Read a file with a JSON object on every line that is not blank; a key that a line lacks is a null there."""
    objects = list(_objects(path))
    columns = list(dict.fromkeys(key for _, item in objects for key in item))

    def rows(wanted: Sequence[int]) -> Iterator[Row]:
        names = [columns[i] for i in wanted]
        for line, item in objects:
            yield line, [item.get(name) for name in names]

    return Table(columns, rows)


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(split_lines(read_text(path)), start=1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        # ValueError also covers a number with thousands of digits; RecursionError thousands of brackets.
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}:{number}: not valid JSON ({_reason(error)}); a line is an object") from None
        if not isinstance(item, dict):
            raise DataError(f'{path}:{number}: not a JSON object; a line looks like {{"text": "...", "label": "..."}}')
        yield number, item


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, column {error.colno}"
    return str(error)
