"""Input texts of ``hrkd predict``: from arguments, a file, or stdin.

Errors name the text: ``TEXT number 2``, ``stdin:7``.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from hrkd_cli.cli.console import Console
from hrkd_cli.command_settings import PredictSettings
from hrkd_cli.errors import DataError, UsageError

Text = str | tuple[str, str]  # a text, or a pair of texts


def input_file(options: PredictSettings) -> Path | None:
    """Return the file of ``--input`` or of a single TEXT that is a file name; None without a file."""
    texts = options.texts or []
    if options.input is not None:
        if texts:
            raise UsageError("give texts as arguments or a file with --input, not both")
        if not options.input.is_file():
            raise UsageError(f"--input: no such file: {options.input}")
        return options.input
    if len(texts) == 1 and Path(texts[0]).suffix:
        from hrkd_cli.data.sources.formats import detect_format

        file = Path(texts[0])
        with contextlib.suppress(OSError, ValueError):  # the text is too long for a file name or has a NUL
            return file if detect_format(file, require_label=False) is not None and file.is_file() else None
    return None


def from_arguments(texts: list[str], has_pairs: bool) -> list[Text]:
    """Return the texts, or pairs of texts, of the arguments."""
    rows = [(f"TEXT number {number}", text) for number, text in enumerate(texts, start=1)]
    for where, text in rows:
        if not text.strip():
            raise UsageError(f"{where} is empty")
    return list(_split_pairs(rows, has_pairs))


def from_file(file: Path, text: str | None, text_pair: str | None, has_pairs: bool) -> list[Text]:
    """Return the texts, or pairs of texts, of a file."""
    from hrkd_cli.data.texts import read_texts

    texts, seconds = read_texts(file, text=text, text_pair=text_pair)
    # A detected second column is ignored unless the model reads pairs.
    if seconds is not None and (has_pairs or text_pair is not None):
        return list(zip(texts, seconds, strict=True))
    rows = ((f"{file}: text {number}", text) for number, text in enumerate(texts, start=1))
    return list(_split_pairs(rows, has_pairs))


def from_stdin(has_pairs: bool, console: Console) -> Iterator[Text]:
    """Yield one text, or pair, per line of stdin as it arrives; empty lines are skipped with a warning."""
    return _split_pairs(_lines(console), has_pairs)


def _lines(console: Console) -> Iterator[tuple[str, str]]:
    is_empty = True
    for number, raw in enumerate(sys.stdin.buffer, start=1):
        where = f"stdin:{number}"
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            raise DataError(f"{where}: not UTF-8") from None
        if line.strip():
            is_empty = False
            yield where, line
        else:
            console.write_note(f"{where}: empty line skipped", warning=True)
    if is_empty:
        raise DataError("stdin: no text")


def _split_pairs(rows: Iterable[tuple[str, str]], has_pairs: bool) -> Iterator[Text]:
    """Yield the texts of (where, text) rows; with ``has_pairs``, each is split at its TAB."""
    for where, text in rows:
        first, tab, second = text.partition("\t")
        if has_pairs and (not (tab and first.strip() and second.strip()) or "\t" in second):
            raise DataError(f"{where}: this model reads pairs; put one TAB between the two texts")
        yield (first, second) if has_pairs else text
