"""Input texts of ``hrkd predict``: from arguments, a file, or stdin.

Errors name the text: ``TEXT number 2``, ``new.csv:3``, ``stdin:7``.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from hrkd_cli.cli.console import Console
from hrkd_cli.command_settings import PredictSettings
from hrkd_cli.errors import DataError, UsageError
from hrkd_cli.events import Event, Note
from hrkd_cli.formatting import join_names, plural

Text = str | tuple[str, str]  # a text, or a pair of texts


def input_file(options: PredictSettings) -> Path | None:
    """Return the file of ``--input`` or of a single TEXT that is a file name; None without a file.

    Raises:
        UsageError: there is no such file, or a text looks like the name of a file that cannot be read.
    """
    texts = options.texts or []
    if options.input is not None:
        if texts:
            raise UsageError("give texts as arguments or a file with --input, not both")
        if not options.input.is_file():
            raise UsageError(f"--input: no such file: {options.input}")
        return options.input
    for number, text in enumerate(texts, start=1):
        with contextlib.suppress(OSError, ValueError):  # the text is too long for a file name or has a NUL
            path, is_data = Path(text), _has_data_suffix(text)
            if is_data and len(texts) == 1 and path.is_file():
                return path
            if path.exists() and (path.suffix or os.sep in text):
                raise UsageError(f"TEXT number {number}: give one file of texts, with --input, and not {text}")
            if is_data and len(text.split()) == 1:
                raise UsageError(f"TEXT number {number}: no such file: {text}; pipe a text to stdin to label it")
    return None


def _has_data_suffix(text: str) -> bool:
    if not (path := Path(text)).suffix:
        return False
    from hrkd_cli.data.sources.formats import detect_format

    return detect_format(path, require_label=False) is not None


def from_arguments(texts: list[str], has_pairs: bool) -> list[Text]:
    """Return the texts, or pairs of texts, of the arguments."""
    rows = [(f"TEXT number {number}", text) for number, text in enumerate(texts, start=1)]
    for where, text in rows:
        if not text.strip():
            raise UsageError(f"{where} is empty")
    return list(_split_pairs(rows, has_pairs))


def from_file(
    file: Path, options: PredictSettings, domains: Sequence[str], has_pairs: bool, console: Console
) -> tuple[list[Text], list[int], list[str]]:
    """Return the texts, or pairs of texts, of a file, and the line number and domain of each.

    ``domains`` are those that a column of the file may have; rows without one get the domain of the options.
    """
    from hrkd_cli.data.texts import read_texts

    def on_event(event: Event) -> None:
        if isinstance(event, Note):
            console.write_note(event.text, warning=event.warning)

    rows = read_texts(file, text=options.text, text_pair=options.text_pair, domains=domains, on_event=on_event)
    # A detected second column is ignored unless the model reads pairs.
    if rows[0].pair is not None and (has_pairs or options.text_pair is not None):
        texts: list[Text] = [(row.text, row.pair or "") for row in rows]
    else:
        texts = list(_split_pairs(((f"{file}:{row.line}", row.text) for row in rows), has_pairs))
    if blank := [row.line for row, text in zip(rows, texts, strict=True) if _is_blank(text)]:
        where = f"{plural(len(blank), 'row')} (line {join_names([str(line) for line in blank])})"
        console.write_note(f"{file}: no text and so no label in {where}", warning=True)
    return texts, [row.line for row in rows], [row.domain or options.domain for row in rows]


def _is_blank(text: Text) -> bool:
    return not all(part.strip() for part in ([text] if isinstance(text, str) else text))


def from_stdin(has_pairs: bool, console: Console) -> Iterator[Text]:
    """Yield one text, or pair, per line of stdin as it arrives, with a warning for each empty line."""
    return _split_pairs(_lines(console), has_pairs)


def _lines(console: Console) -> Iterator[tuple[str, str]]:
    is_empty = True
    for number, raw in enumerate(sys.stdin.buffer, start=1):
        where = f"stdin:{number}"
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            raise DataError(f"{where}: not UTF-8") from None
        if not line.strip():
            console.write_note(f"{where}: empty line, no label", warning=True)
        is_empty = False
        yield where, line
    if is_empty:
        raise DataError("stdin: no text")


def _split_pairs(rows: Iterable[tuple[str, str]], has_pairs: bool) -> Iterator[Text]:
    """Yield the texts of (where, text) rows; with ``has_pairs``, each that is not blank is split at its TAB."""
    for where, text in rows:
        first, tab, second = text.partition("\t")
        if has_pairs and text.strip() and (not (tab and first.strip() and second.strip()) or "\t" in second):
            raise DataError(f"{where}: this model reads pairs; put one TAB between the two texts")
        yield (first, second) if has_pairs else text
