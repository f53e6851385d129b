"""The rows that ``hrkd predict`` labels: texts of the command line, lines of stdin, or a file in any format."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hrkd_cli.cli.console import Console
from hrkd_cli.command_settings import PredictSettings
from hrkd_cli.errors import HrkdError
from hrkd_cli.events import Event, Note
from hrkd_cli.formatting import join_names, plural
from hrkd_cli.predict import text_input
from hrkd_cli.predict.records import common_type, value_type
from hrkd_cli.predict.text_input import InputRow

if TYPE_CHECKING:
    from hrkd_cli.predict.predictor import Predictor


def has_data_suffix(text: str) -> bool:
    """Return whether a text ends like the name of a data file."""
    if not (path := Path(text)).suffix:
        return False
    from hrkd_cli.data.sources.formats import detect_format

    return detect_format(path, require_label=False) is not None


def read_rows(
    file: Path | None, options: PredictSettings, predictor: Predictor, domains: Sequence[str], console: Console
) -> tuple[Iterable[InputRow], dict[str, type]]:
    """Return the rows that ``predictor`` is to label, and the types of the columns that their records keep.

    ``domains`` are those that a column of the file may have; rows without one get the domain of the options.
    """
    if file is not None:
        return _from_file(file, options, predictor, domains, console)
    has_pairs = predictor.spec.pair is True
    if options.texts:
        return text_input.from_arguments(options.texts, has_pairs, options.domain), {}
    warn = partial(console.write_note, warning=True)
    return text_input.from_lines(sys.stdin.buffer, "stdin", has_pairs, options.domain, warn), {}


def _from_file(
    file: Path, options: PredictSettings, predictor: Predictor, domains: Sequence[str], console: Console
) -> tuple[Iterable[InputRow], dict[str, type]]:
    from hrkd_cli.data.texts import read_texts

    def on_event(event: Event) -> None:
        if isinstance(event, Note):
            console.write_note(event.text, warning=event.warning)

    rows = read_texts(
        file,
        text=options.text,
        text_pair=options.text_pair,
        has_pairs=predictor.spec.pair is True,
        domains=domains,
        default_domain=options.domain,
        on_event=on_event,
    )
    # The file is read twice, so that its errors are reported before the first text is labeled.
    blank: list[str] = []
    types: dict[str, set[type]] = {}
    first_rows: dict[str, InputRow] = {}
    for row in rows:
        if not all(part.strip() for part in ([row.text] if isinstance(row.text, str) else row.text)):
            blank.append(str(row.fields["line"]))
        else:
            first_rows.setdefault(row.domain, row)
        for name, value in row.fields.items():
            types.setdefault(name, set()).update([] if value is None else [value_type(value)])
    if blank:
        where = f"{plural(len(blank), 'row')} (line {join_names(blank)})"
        console.write_note(f"{file}: no text and so no label in {where}", warning=True)
    for row in first_rows.values():
        text, *pair = [row.text] if isinstance(row.text, str) else row.text
        try:
            predictor.predict([text], pair or None, domain=row.domain)
        except HrkdError as error:
            raise type(error)(f"{file}:{row.fields['line']}: {error}") from None
    del types["line"]
    return rows, {name: common_type(found) for name, found in types.items()}
