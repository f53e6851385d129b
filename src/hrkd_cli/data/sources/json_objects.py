"""JSON: an object a line, objects one after the other, or an array of objects."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hrkd_cli.data.sources.table import Row, Table
from hrkd_cli.data.sources.text_file import TextFile
from hrkd_cli.errors import DataError

_decode = json.JSONDecoder().raw_decode
_BETWEEN = re.compile(r"\s*")
_BETWEEN_ITEMS = re.compile(r"[\s,]*")
_Objects = Callable[[TextFile], Iterator[tuple[int, dict[str, Any]]]]


def open_json(file: TextFile) -> Table:
    """Open a JSON file; a key that an object lacks is a null there.

    Objects on lines of their own are read line by line, other files are held in memory.
    """
    objects = _layout(file)
    columns = list(dict.fromkeys(key for _, item in objects(file) for key in item))

    def rows(wanted: Sequence[int]) -> Iterator[Row]:
        names = [columns[i] for i in wanted]
        for line, item in objects(file):
            yield line, [item.get(name) for name in names]

    return Table(columns, rows)


def _layout(file: TextFile) -> _Objects:
    first = file.check_not_empty().strip()
    if first.startswith("["):
        return _from_array
    try:
        _decode(first)
    except (ValueError, RecursionError):
        with file.open() as stream:
            text = stream.read()
        try:
            _decode(text, _BETWEEN.match(text).end())  # type: ignore[union-attr]
        except (ValueError, RecursionError):
            return _from_lines  # which says what is wrong with the line
        return _from_stream
    return _from_lines


def _from_lines(file: TextFile) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in file.lines():
        if line.strip():
            yield from _items(file, line, _BETWEEN, line=number, hint="; a line is an object")


def _from_stream(file: TextFile) -> Iterator[tuple[int, dict[str, Any]]]:
    with file.open() as stream:
        text = stream.read()
    yield from _items(file, text, _BETWEEN)


def _from_array(file: TextFile) -> Iterator[tuple[int, dict[str, Any]]]:
    with file.open() as stream:
        text = stream.read()
    end = len(text.rstrip())
    if text[end - 1] != "]":
        line = text.count("\n", 0, end) + 1
        raise DataError(f"{file.path}:{line}: not valid JSON: the array that begins the file does not end")
    yield from _items(file, text, _BETWEEN_ITEMS, start=text.index("[") + 1, end=end - 1)


def _items(
    file: TextFile,
    text: str,
    between: re.Pattern[str],
    *,
    line: int = 1,
    start: int = 0,
    end: int | None = None,
    hint: str = "",
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line, object) of objects one after the other; ``line`` is that of the text's first character."""
    seen, end = 0, len(text) if end is None else end
    while (start := between.match(text, start, end).end()) < end:  # type: ignore[union-attr]
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
