"""JSON files: one object per line, concatenated objects, an array of objects, or a document with rows in it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import chain, islice
from typing import Any

from hrkd_cli.data.sources.columns import COLUMN_ALIASES, normalize_name
from hrkd_cli.data.sources.file_names import parse_names
from hrkd_cli.data.sources.row_reader import RowReader, make_object_reader
from hrkd_cli.data.sources.text_file import TextFile
from hrkd_cli.errors import DataError

Row = dict[str, Any]
_decode = json.JSONDecoder().raw_decode
_TEXT_NAMES = frozenset(COLUMN_ALIASES["text"])
_CONTAINERS = frozenset({dict, list})
_SEPARATORS = re.compile(r"[\s,]*")


def open_json(file: TextFile) -> RowReader:
    """Open a JSON file; a key that an object lacks is null."""
    return make_object_reader(partial(_iter_rows, file))


def holds_rows(file: TextFile) -> bool:
    """Return whether the first row has a text under a usual name; files about data, such as settings, have none.

    Raises:
        DataError: the file cannot be read, or is not JSON.
    """
    return any(has_text(row) for _, row in islice(_iter_rows(file), 1))


def _iter_rows(file: TextFile) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, row).

    A file of several lines whose first one starts with a whole object, or is a row as a list, is read line by line.
    Others are held in memory.
    """
    lines = (line.strip() for _, line in file.lines() if line.strip())
    first, second = next(lines, ""), next(lines, "")
    try:
        _, end = _decode(first)
        by_line = second != "" and (first[0] == "{" or (end == len(first) and second[0] == first[0] == "["))
    except (ValueError, RecursionError):
        by_line = False
    items = _iter_lines(file) if by_line else _iter_whole(file)
    start = list(islice(items, 2))
    if len(start) == 1:
        document = start[0][1]
        if rows := find_rows(document):
            yield from enumerate(rows, 1)
            return
        _check_lists(file, document)
    for line, item in chain(start, items):
        row = to_row(item)
        if row is None:
            raise DataError(f'{file.path}:{line}: not a JSON object; one looks like {{"text": "...", "label": "..."}}')
        yield line, row


def _check_lists(file: TextFile, document: Any) -> None:
    """Raise a DataError if a document has several lists of objects, of which none is clearly that of the rows."""
    values = document.items() if isinstance(document, dict) else ()
    lists = {key: value for key, value in values if isinstance(value, list) and value and isinstance(value[0], dict)}
    if len(lists) > 1:
        longest = max(lists, key=lambda key: len(lists[key]))
        raise DataError(
            f"{file.path}: has several lists ({', '.join(lists)}), and their objects have no text under a usual name; "
            f"write the list of rows to its own file, as with jq .{longest} FILE > NEW"
        )


def _iter_lines(file: TextFile) -> Iterator[tuple[int, Any]]:
    for number, text in file.lines():
        yield from _iter_values(file, text, line=number, hint="; each line must be an object")


def _iter_whole(file: TextFile) -> Iterator[tuple[int, Any]]:
    with file.open() as stream:
        text = stream.read().rstrip()
    start = _skip_separators(text, 0)
    if text.startswith("[", start):
        if not text.endswith("]"):
            line = text.count("\n") + 1
            raise DataError(f"{file.path}:{line}: not valid JSON: the array that begins the file does not end")
        text, start = text[:-1], start + 1
    yield from _iter_values(file, text, start=start)


def _iter_values(
    file: TextFile, text: str, *, start: int = 0, line: int = 1, hint: str = ""
) -> Iterator[tuple[int, Any]]:
    """Yield (line number, value) of concatenated values; ``line`` is that of the text's first character."""
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
        yield line, item


def _skip_separators(text: str, start: int) -> int:
    return _SEPARATORS.match(text, start).end()  # type: ignore[union-attr]


def find_rows(document: Any) -> list[Row] | None:
    """Return the rows within a document (see docs/data.md); None if it has none or is a row itself.

    A key that names a split is the split of the rows under it; if no key does, keys of several lists are domains.
    """
    if isinstance(document, list):
        rows = [to_row(item) for item in document]
        return [row for row in rows if row is not None] if rows and None not in rows else None
    if not isinstance(document, dict) or has_text(document):
        return None
    names, values = document.get("columns"), document.get("data")
    if isinstance(names, list) and isinstance(values, list):  # pandas: orient="split"
        return [dict(zip(names, row, strict=False)) for row in values]
    columns = {key: list(value.values()) if isinstance(value, dict) else value for key, value in document.items()}
    lists = {key: value for key, value in columns.items() if isinstance(value, list)}
    if not _TEXT_NAMES.isdisjoint(map(normalize_name, lists)):  # pandas: orient="columns"
        same_length = len({len(value) for value in lists.values()}) == 1
        return (
            [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)] if same_length else None
        )
    if all(isinstance(value, dict) and has_text(value) for value in document.values()):  # pandas: orient="index"
        return list(document.values())
    return _find_groups(document)


def _find_groups(document: Mapping[str, Any]) -> list[Row] | None:
    found = {key: rows for key, value in document.items() if (rows := find_rows(value))}
    groups = {key: rows for key, rows in found.items() if has_text(rows[0])} or found
    splits = {key: parse_names(key, "")[1] for key in groups}
    if any(splits.values()):
        return [{"split": splits[key] or key, **row} for key, rows in groups.items() for row in rows]
    if len(groups) > 1 and groups is found:
        return None
    return [{"domain": key, **row} if len(groups) > 1 else row for key, rows in groups.items() for row in rows] or None


def to_row(item: Any) -> Row | None:
    """Return an element of a JSON array, or a JSON line, as a row; None if it is not one.

    ``[text, label]`` is a row. Annotations of Label Studio and Prodigy become the column "label", the keys of nested
    objects columns such as "meta.source". The label of a text with several is a list.
    """
    if isinstance(item, list) and len(item) == 2 and isinstance(item[0], str):
        extra = item[1] if isinstance(item[1], dict) else {"label": item[1]}
        return to_row({"text": item[0], **extra})
    if not isinstance(item, dict):
        return None
    if _CONTAINERS.isdisjoint(map(type, item.values())):  # nearly always
        return item
    row = item
    if isinstance(item.get("data"), dict) and isinstance(item.get("annotations"), list):
        row = {**item["data"], **_label_studio_choices(item["annotations"])}
    elif "label" not in item and isinstance(item.get("cats"), dict):
        row = {**item, "label": _single([name for name, score in item["cats"].items() if score and score >= 0.5])}
    elif "label" not in item and isinstance(item.get("accept"), list) and "options" in item:
        row = {**item, "label": _single(item["accept"])}
    nested = {key: value for key, value in row.items() if isinstance(value, dict)}
    if nested:
        row = {**row, **{f"{key}.{name}": each for key, value in nested.items() for name, each in value.items()}}
    return row


def has_text(row: Mapping[str, Any]) -> bool:
    """Return whether a row has a text under one of the usual names."""
    return any(isinstance(value, str) and normalize_name(key) in _TEXT_NAMES for key, value in row.items())


def _label_studio_choices(annotations: list[Any]) -> Row:
    """Return the choices of all annotators by name, also as "label" if there is one name."""
    choices: dict[str, list[str]] = {}
    for annotation in annotations:
        for result in [] if annotation.get("was_cancelled") else annotation.get("result", []):
            chosen = choices.setdefault(result.get("from_name", "label"), [])
            chosen += [each for each in result.get("value", {}).get("choices", []) if each not in chosen]
    labels = {name: _single(chosen) for name, chosen in choices.items()}
    return {"label": next(iter(labels.values())), **labels} if len(labels) == 1 else {**labels}


def _single(labels: list[Any]) -> Any:
    return labels[0] if len(labels) == 1 else labels or None
