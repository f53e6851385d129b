"""Input files of ``hrkd predict``: any format of ``prepare``, with columns for second texts and domains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hrkd_cli.cli.console import Console
from hrkd_cli.command_settings import PredictSettings
from hrkd_cli.events import Event, Note
from hrkd_cli.formatting import join_names, plural
from hrkd_cli.predict.text_input import Text, split_pairs


def has_data_suffix(text: str) -> bool:
    """Return whether a text ends like the name of a data file."""
    if not (path := Path(text)).suffix:
        return False
    from hrkd_cli.data.sources.formats import detect_format

    return detect_format(path, require_label=False) is not None


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
        texts = list(split_pairs(((f"{file}:{row.line}", row.text) for row in rows), has_pairs))
    if blank := [row.line for row, text in zip(rows, texts, strict=True) if _is_blank(text)]:
        where = f"{plural(len(blank), 'row')} (line {join_names([str(line) for line in blank])})"
        console.write_note(f"{file}: no text and so no label in {where}", warning=True)
    return texts, [row.line for row in rows], [row.domain or options.domain for row in rows]


def _is_blank(text: Text) -> bool:
    return not all(part.strip() for part in ([text] if isinstance(text, str) else text))
