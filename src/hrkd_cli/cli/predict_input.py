"""The texts that ``hrkd predict`` labels: from arguments, a file, or stdin, a chunk at a time.

Errors name the text: ``TEXT number 2``, ``stdin:7``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hrkd_cli.command_settings import PredictSettings
from hrkd_cli.errors import DataError, UsageError

Chunk = tuple[list[str], list[str] | None]
"""Texts, and the second texts where the model reads pairs."""

CHUNK = 64
"""Texts that are labelled before the first of them is written."""


def input_file(options: PredictSettings) -> Path | None:
    """Return the file to read, if any: ``--input``, or a single TEXT that is the name of a file."""
    texts = options.texts or []
    if options.input is not None:
        if texts:
            raise UsageError("give texts as arguments or a file with --input, not both")
        if not options.input.is_file():
            raise UsageError(f"--input: no such file: {options.input}")
        return options.input
    if len(texts) == 1 and Path(texts[0]).suffix:
        from hrkd_cli.data.sources.formats import format_of

        if format_of(Path(texts[0]), labelled=False) is None:
            return None
        try:
            return Path(texts[0]) if Path(texts[0]).is_file() else None
        except (OSError, ValueError):  # a text too long to be a file name, or with a NUL in it
            return None
    return None


def from_arguments(texts: list[str], pair: bool) -> Iterator[Chunk]:
    """Yield the arguments, in one chunk."""
    rows = [(f"TEXT number {number}", text) for number, text in enumerate(texts, start=1)]
    for place, text in rows:
        if not text.strip():
            raise UsageError(f"{place} is empty")
    yield _divided(rows, pair)


def from_file(file: Path, text: str | None, text_pair: str | None, pair: bool) -> Iterator[Chunk]:
    """Yield a file's texts in chunks."""
    from hrkd_cli.data.texts import read_texts

    texts, pairs = read_texts(file, text=text, text_pair=text_pair)
    if not pair and text_pair is None:
        pairs = None  # found by its name, but the model reads one text
    rows = [(f"{file}: text {number}", text) for number, text in enumerate(texts, start=1)]
    for start in range(0, len(rows), CHUNK):
        chunk = slice(start, start + CHUNK)
        yield _divided(rows[chunk], pair) if pairs is None else (texts[chunk], pairs[chunk])


def from_stdin(pair: bool, warn: Callable[[str], None]) -> Iterator[Chunk]:
    """Yield stdin's lines as they arrive, a line a text; an empty line is skipped with a warning."""
    any_text = False
    for lines in _lines(sys.stdin.buffer):
        rows = []
        for number, raw in lines:
            place = f"stdin:{number}"
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r")
            except UnicodeDecodeError:
                raise DataError(f"{place}: not UTF-8") from None
            if line.strip():
                rows.append((place, line))
            else:
                warn(f"{place}: empty line skipped")
        any_text = any_text or bool(rows)
        for start in range(0, len(rows), CHUNK):
            yield _divided(rows[start : start + CHUNK], pair)
    if not any_text:
        raise DataError("stdin: no text in it")


def _lines(stream: Any) -> Iterator[list[tuple[int, bytes]]]:
    """Yield the numbered lines that have arrived, without waiting for a full block: a pipe may be slow."""
    rest, number = b"", 0
    while block := stream.read1(1 << 16):
        *whole, rest = (rest + block).split(b"\n")
        if whole:
            yield list(enumerate(whole, start=number + 1))
            number += len(whole)
    if rest:
        yield [(number + 1, rest)]


def _divided(rows: list[tuple[str, str]], pair: bool) -> Chunk:
    """Return the texts of rows (place, text), each divided at its TAB where the model reads pairs."""
    if not pair:
        return [text for _, text in rows], None
    halves = []
    for place, text in rows:
        first, tab, second = text.partition("\t")
        if not (tab and first.strip() and second.strip()) or "\t" in second:
            raise DataError(f"{place}: this model reads pairs; put one TAB between the two texts")
        halves.append((first, second))
    return [first for first, _ in halves], [second for _, second in halves]
