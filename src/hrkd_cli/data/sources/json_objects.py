"""JSON: an object a line, objects one after the other, or an array of objects."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from hrkd_cli.data.sources.columns import Row, Table
from hrkd_cli.data.sources.text_file import TextFile
from hrkd_cli.errors import DataError

_decode = json.JSONDecoder().raw_decode
_BETWEEN = re.compile(r"[\s,]*")


def open_json(file: TextFile) -> Table:
    """Open a JSON file; a key that an object lacks is a null there.

    Objects on lines of their own are read line by line, other files are held in memory.
    """
    first = file.check_not_empty().strip()
    objects = partial(_objects, file, is_array=first.startswith("["), by_line=_starts_with_json(first))
    columns = list(dict.fromkeys(key for _, item in objects() for key in item))

    def rows(wanted: Sequence[int]) -> Iterator[Row]:
        names = [columns[i] for i in wanted]
        for line, item in objects():
            yield line, [item.get(name) for name in names]

    return Table(columns, rows)


def _objects(file: TextFile, *, is_array: bool, by_line: bool) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line on which it starts, object)."""
    text = None
    if is_array or not by_line:
        with file.open() as stream:
            text = stream.read().rstrip()
    if is_array and text is not None:
        if not text.endswith("]"):
            line = text.count("\n") + 1
            raise DataError(f"{file.path}:{line}: not valid JSON: the array that begins the file does not end")
        yield from _items(file, text[:-1], start=text.index("[") + 1)
    elif text is not None and _starts_with_json(text):
        yield from _items(file, text)
    else:
        for number, line_text in file.lines():
            yield from _items(file, line_text, line=number, hint="; a line is an object")


def _starts_with_json(text: str) -> bool:
    try:
        _decode(text.lstrip())
    except (ValueError, RecursionError):
        return False
    return True


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
