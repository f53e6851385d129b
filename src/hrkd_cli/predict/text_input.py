"""Texts to label, from arguments or from the lines of a file or of stdin.

Errors name the text: ``TEXT number 2``, ``new.txt:3``, ``stdin:7``.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from hrkd_cli.errors import DataError, UsageError

Text = str | tuple[str, str]  # a text, or a pair of texts


class InputRow(NamedTuple):
    """A row to label: its text, its domain, and the fields that its record gets from it."""

    text: Text
    domain: str
    fields: dict[str, Any]


def input_file(texts: list[str], file: Path | None, has_data_suffix: Callable[[str], bool]) -> Path | None:
    """Return the file of ``--input``, or of a single TEXT that is a file name; None without a file.

    Raises:
        UsageError: there is no such file, a text looks like the name of a file that cannot be read, or there is nothing
            to label: no text, no file, and a terminal as stdin.
    """
    if file is not None:
        if texts:
            raise UsageError("give texts as arguments or a file with --input, not both")
        if not file.is_file():
            raise UsageError(f"--input: no such file: {file}")
        return file
    if not texts and sys.stdin.isatty():
        raise UsageError("nothing to label; give texts as arguments, a file with --input, or lines on stdin")
    for number, text in enumerate(texts, start=1):
        with contextlib.suppress(OSError, ValueError):  # the text is too long for a file name or has a NUL
            path, is_data = Path(text), has_data_suffix(text)
            if is_data and len(texts) == 1 and path.is_file():
                return path
            if path.exists() and (path.suffix or os.sep in text):
                raise UsageError(f"TEXT number {number}: give one file of texts, with --input, and not {text}")
            if is_data and len(text.split()) == 1:
                raise UsageError(f"TEXT number {number}: no such file: {text}; pipe a text to stdin to label it")
    return None


def check_self_check_options(given: Mapping[str, object], defaults: Mapping[str, object]) -> None:
    """Raise UsageError if an option is given with ``--self-check`` that it does not use."""
    used = ("model", "self_check", "threads", "device")
    unused = [
        "TEXT" if name == "texts" else f"--{name.replace('_', '-')}"
        for name, value in given.items()
        if name not in used and value != defaults[name]
    ]
    if unused:
        raise UsageError(f"--self-check uses the stored texts; remove {', '.join(unused)}")


def from_arguments(texts: list[str], has_pairs: bool, domain: str) -> list[InputRow]:
    """Return a row for each argument."""
    rows = [(f"TEXT number {number}", text) for number, text in enumerate(texts, start=1)]
    for where, text in rows:
        if not text.strip():
            raise UsageError(f"{where} is empty")
    return [InputRow(split_pair(where, text, has_pairs), domain, {}) for where, text in rows]


def from_lines(
    stream: BinaryIO, name: str, has_pairs: bool, domain: str, warn: Callable[[str], None]
) -> Iterator[InputRow]:
    """Yield a row for each line as it arrives; ``warn`` receives a message about each empty line."""
    number = 0
    for number, raw in enumerate(stream, start=1):
        where = f"{name}:{number}"
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            raise DataError(f"{where}: not UTF-8") from None
        if number <= 2 and "\0" in line:  # in UTF-16-LE, the second line starts with half of the newline
            raise DataError(f"{where}: contains NUL bytes, like UTF-16; convert it to UTF-8")
        if not line.strip():
            warn(f"{where}: empty line, no label")
        yield InputRow(split_pair(where, line, has_pairs), domain, {"line": number})
    if not number:
        raise DataError(f"{name}: no text")


def split_pair(where: str, text: str, has_pairs: bool) -> Text:
    """Return a text; with ``has_pairs``, split one that is not blank at its TAB."""
    first, tab, second = text.partition("\t")
    if has_pairs and text.strip() and (not (tab and first.strip() and second.strip()) or "\t" in second):
        raise DataError(f"{where}: this model reads pairs; put one TAB between the two texts")
    return (first, second) if has_pairs else text
