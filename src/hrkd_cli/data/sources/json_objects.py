"""JSON: an object a line, objects one after the other, or an array of objects."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

from hrkd_cli.data.sources.columns import Table, table_of_objects
from hrkd_cli.data.sources.text_file import TextFile
from hrkd_cli.errors import DataError

_decode = json.JSONDecoder().raw_decode
_BETWEEN = re.compile(r"[\s,]*")


def open_json(file: TextFile) -> Table:
    """Open a JSON file; a key that an object lacks is a null there.

    A file that begins with a line of whole objects is read line by line, others are held in memory.
    """
    first = next((line for _, line in file.lines() if line.strip()), "").lstrip()
    try:
        _decode(first)
        by_line = not first.startswith("[")
    except (ValueError, RecursionError):
        by_line = False
    return table_of_objects(partial(_by_line if by_line else _at_once, file))


def _by_line(file: TextFile) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, text in file.lines():
        yield from _items(file, text, line=number, hint="; a line is an object")


def _at_once(file: TextFile) -> Iterator[tuple[int, dict[str, Any]]]:
    with file.open() as stream:
        text = stream.read().rstrip()
    start = _after_space(text, 0)
    if text.startswith("[", start):
        if not text.endswith("]"):
            line = text.count("\n") + 1
            raise DataError(f"{file.path}:{line}: not valid JSON: the array that begins the file does not end")
        text, start = text[:-1], start + 1
    yield from _items(file, text, start=start)


def _items(
    file: TextFile, text: str, *, start: int = 0, line: int = 1, hint: str = ""
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line, object) of objects one after the other; ``line`` is that of the text's first character."""
    seen = 0
    while (start := _after_space(text, start)) < len(text):
        line += text.count("\n", seen, start)
        seen = start
        try:
            item, start = _decode(text, start)
        # ValueError also covers a number with thousands of digits; RecursionError thousands of brackets.
        except (ValueError, RecursionError) as error:
            reason = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
            raise DataError(f"{file.path}:{line}: not valid JSON ({reason}){hint}") from None
        if not isinstance(item, dict):
            raise DataError(f'{file.path}:{line}: not a JSON object; one looks like {{"text": "...", "label": "..."}}')
        yield line, item


def _after_space(text: str, start: int) -> int:
    return _BETWEEN.match(text, start).end()  # type: ignore[union-attr]
