"""JSON files: one object per line, concatenated objects, or an array of objects."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

from hrkd_cli.data.sources.row_reader import RowReader, make_object_reader
from hrkd_cli.data.sources.text_file import TextFile
from hrkd_cli.errors import DataError

_decode = json.JSONDecoder().raw_decode
_SEPARATORS = re.compile(r"[\s,]*")


def open_json(file: TextFile) -> RowReader:
    """Open a JSON file; a key that an object lacks is null.

    A file whose first line starts with a whole object is read line by line. Others are held in memory.
    """
    first = next((line for _, line in file.lines() if line.strip()), "").lstrip()
    try:
        _decode(first)
        by_line = not first.startswith("[")
    except (ValueError, RecursionError):
        by_line = False
    return make_object_reader(partial(_iter_lines if by_line else _iter_whole, file))


def _iter_lines(file: TextFile) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, text in file.lines():
        yield from _iter_objects(file, text, line=number, hint="; each line must be an object")


def _iter_whole(file: TextFile) -> Iterator[tuple[int, dict[str, Any]]]:
    with file.open() as stream:
        text = stream.read().rstrip()
    start = _skip_separators(text, 0)
    if text.startswith("[", start):
        if not text.endswith("]"):
            line = text.count("\n") + 1
            raise DataError(f"{file.path}:{line}: not valid JSON: the array that begins the file does not end")
        text, start = text[:-1], start + 1
    yield from _iter_objects(file, text, start=start)


def _iter_objects(
    file: TextFile, text: str, *, start: int = 0, line: int = 1, hint: str = ""
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) of concatenated objects; ``line`` is that of the text's first character."""
    counted = 0  # characters whose newlines are in ``line``
    while (start := _skip_separators(text, start)) < len(text):
        line += text.count("\n", counted, start)
        counted = start
        try:
            item, start = _decode(text, start)
        # ValueError is also raised for a number with thousands of digits, RecursionError for thousands of brackets.
        except (ValueError, RecursionError) as error:
            reason = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
            raise DataError(f"{file.path}:{line}: not valid JSON ({reason}){hint}") from None
        if not isinstance(item, dict):
            raise DataError(f'{file.path}:{line}: not a JSON object; one looks like {{"text": "...", "label": "..."}}')
        yield line, item


def _skip_separators(text: str, start: int) -> int:
    return _SEPARATORS.match(text, start).end()  # type: ignore[union-attr]
