"""Texts to label, from arguments or from the lines of a file or of stdin.

Errors name the text: ``TEXT number 2``, ``new.txt:3``, ``stdin:7``.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from hrkd_cli.errors import DataError, UsageError

Text = str | tuple[str, str]  # a text, or a pair of texts


def input_file(texts: list[str], file: Path | None, has_data_suffix: Callable[[str], bool]) -> Path | None:
    """Return the file of ``--input``, or of a single TEXT that is a file name; None without a file.

    Raises:
        UsageError: there is no such file, or a text looks like the name of a file that cannot be read.
    """
    if file is not None:
        if texts:
            raise UsageError("give texts as arguments or a file with --input, not both")
        if not file.is_file():
            raise UsageError(f"--input: no such file: {file}")
        return file
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


def from_arguments(texts: list[str], has_pairs: bool) -> list[Text]:
    """Return the texts, or pairs of texts, of the arguments."""
    rows = [(f"TEXT number {number}", text) for number, text in enumerate(texts, start=1)]
    for where, text in rows:
        if not text.strip():
            raise UsageError(f"{where} is empty")
    return list(split_pairs(rows, has_pairs))


def from_lines(stream: BinaryIO, name: str, has_pairs: bool, warn: Callable[[str], None]) -> Iterator[Text]:
    """Yield one text, or pair, per line as it arrives; ``warn`` receives a message about each empty line."""
    return split_pairs(_lines(stream, name, warn), has_pairs)


def _lines(stream: BinaryIO, name: str, warn: Callable[[str], None]) -> Iterator[tuple[str, str]]:
    is_empty = True
    for number, raw in enumerate(stream, start=1):
        where = f"{name}:{number}"
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            raise DataError(f"{where}: not UTF-8") from None
        if not line.strip():
            warn(f"{where}: empty line, no label")
        is_empty = False
        yield where, line
    if is_empty:
        raise DataError(f"{name}: no text")


def split_pairs(rows: Iterable[tuple[str, str]], has_pairs: bool) -> Iterator[Text]:
    """Yield the texts of (where, text) rows; with ``has_pairs``, each that is not blank is split at its TAB."""
    for where, text in rows:
        first, tab, second = text.partition("\t")
        if has_pairs and text.strip() and (not (tab and first.strip() and second.strip()) or "\t" in second):
            raise DataError(f"{where}: this model reads pairs; put one TAB between the two texts")
        yield (first, second) if has_pairs else text
