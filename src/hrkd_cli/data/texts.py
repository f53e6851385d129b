"""Texts to predict, read from a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hrkd_cli.data.row_batches import clean_name
from hrkd_cli.data.sources.columns import COLUMN_ALIASES, normalize_name, resolve_columns
from hrkd_cli.data.sources.formats import PLAIN_TEXT, detect_format
from hrkd_cli.data.sources.text_file import TextFile
from hrkd_cli.data.sources.values import InvalidTextError, to_text
from hrkd_cli.errors import DataError, UsageError, did_you_mean
from hrkd_cli.events import Note, OnEvent, ignore
from hrkd_cli.formatting import join_names
from hrkd_cli.predict.model_spec import AUTO_DOMAIN

_CHECKED_LINES = 1000


@dataclass(frozen=True, slots=True)
class TextRow:
    """A row to predict: its line number, its texts (empty if missing), and its domain, if it has one."""

    line: int
    text: str
    pair: str | None = None
    domain: str | None = None


def read_texts(
    source: Path,
    *,
    text: str | None = None,
    text_pair: str | None = None,
    domains: Sequence[str] = (),
    on_event: OnEvent = ignore,
) -> list[TextRow]:
    """Return all rows of a file, in order.

    Args:
        source: a file in one of the formats of ``prepare``; any other file has one text per line.
        text: column of the text; None finds it by common names, or uses the only column.
        text_pair: column of the second text.
        domains: those of the model. The rows' domains are read from a column called "domain", or from one with another
            usual name that contains one of these domains. With no domains, none are read.
        on_event: receives a warning if the lines look like rows of a table.

    Raises:
        DataError: the file cannot be read, a column does not exist, or a row has a value that is not a text, or a
            domain that is not the model's.
        UsageError: a column is named for a file without columns.
    """
    named = {role: name for role, name in (("text", text), ("text_pair", text_pair)) if name is not None}
    file_format = detect_format(source, require_label=False) or PLAIN_TEXT
    if file_format is PLAIN_TEXT and named:
        option = "--text" if "text" in named else "--text-pair"
        raise UsageError(f"{option}: lines of text have no columns; give a CSV, TSV, JSONL or Parquet file")
    reader = file_format.open(source)
    if file_format is PLAIN_TEXT:  # in the order of the lines, so a blank one is a row too
        reader = replace(reader, iter_rows=lambda _: ((number, [line]) for number, line in TextFile(source).lines()))
    # Neither domain nor label is needed.
    columns = resolve_columns(
        reader.columns,
        named,
        file=str(source),
        file_names_domain=True,
        prefer_domain_column=bool(domains),
        require_label=False,
    )
    roles = {role: columns[role] for role in ("text", "text_pair") if role in columns}
    domain_column = columns.get("domain") if domains else None
    indices = [*roles.values(), *([] if domain_column is None else [domain_column])]
    rows = []
    for line, values in reader.iter_rows(indices):
        # Skipping a row would assign all later predictions to the wrong rows.
        if values is None:
            raise DataError(f"{source}:{line}: wrong number of fields; expected {len(reader.columns)}")
        try:
            texts = {role: to_text(value) or "" for role, value in zip(roles, values, strict=False)}
        except InvalidTextError as error:
            raise DataError(f"{source}:{line}: {error}") from None
        domain = None if domain_column is None else _to_domain(values[-1])
        rows.append(TextRow(line, texts["text"], texts.get("text_pair"), domain))
    if not rows:
        raise DataError(f"{source}: no rows in it")
    if len(reader.columns) == 1:
        header = [] if file_format is PLAIN_TEXT else reader.columns
        _warn_of_table(source, [*header, *(row.text for row in rows[:_CHECKED_LINES])], on_event)
    if domain_column is None:
        return rows
    return _check_domains(source, rows, domains, reader.columns[domain_column])


def _to_domain(value: object) -> str | None:
    try:
        return clean_name(to_text(value) or "")
    except InvalidTextError:
        return str(value)


def _check_domains(source: Path, rows: list[TextRow], domains: Sequence[str], column: str) -> list[TextRow]:
    """Return rows with valid domains; without domains if the column is about something else."""
    known = {*domains, AUTO_DOMAIN, None}
    if normalize_name(column) != "domain" and not any(row.domain in domains for row in rows):
        return [replace(row, domain=None) for row in rows]
    for row in rows:
        if row.domain not in known:
            raise DataError(
                f"{source}:{row.line}: domain {row.domain!r} (column {column!r}) is not one of the model's: "
                f"{join_names(domains, 20)}; correct it, or choose one for all rows with --domain"
                f"{did_you_mean(str(row.domain), domains)}"
            )
    return rows


def _warn_of_table(source: Path, lines: Sequence[str], on_event: OnEvent) -> None:
    """Warn if all lines have the same number of separators, or the first one looks like column names."""
    for separator in (",", ";", "\t", "|"):
        names = [normalize_name(name) for name in lines[0].split(separator)]
        has_header = len(names) > 1 and not set(names).isdisjoint(COLUMN_ALIASES["text"])
        counts = {line.count(separator) for line in lines}
        # Commas are common in texts, and a tab may separate the two texts of a pair.
        is_even = separator in ";|" and len(lines) > 1 and len(counts) == 1 and counts != {0}
        if has_header or is_even:
            on_event(
                Note(
                    f"{source}: each line is labeled as one text, but the lines look like rows of a table separated by "
                    f"{separator!r}; if they are, give a .csv file with a header that names each column",
                    warning=True,
                )
            )
            return
