"""Texts to predict, read from a file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from hrkd_cli.data.row_batches import clean_name
from hrkd_cli.data.sources.columns import COLUMN_ALIASES, normalize_name, resolve_columns
from hrkd_cli.data.sources.formats import PLAIN_TEXT, detect_format
from hrkd_cli.data.sources.row_reader import RowReader
from hrkd_cli.data.sources.text_file import TextFile
from hrkd_cli.data.sources.values import SURROGATE, InvalidTextError, to_text
from hrkd_cli.errors import DataError, UsageError, did_you_mean
from hrkd_cli.events import Note, OnEvent, ignore
from hrkd_cli.formatting import join_names
from hrkd_cli.predict.model_spec import AUTO_DOMAIN
from hrkd_cli.predict.records import kept_names
from hrkd_cli.predict.text_input import InputRow, Text, split_pair

_CHECKED_LINES = 1000
_TEXT_ROLES = ("text", "text_pair")


@dataclass(frozen=True, slots=True)
class TextTable:
    """The rows of a file. Nothing is cached: each iteration reads the file again, and raises its errors.

    Attributes:
        source: the file.
        reader: its reader.
        roles: column indices of text, second text and domain.
        has_pairs: whether the model reads pairs; without a second text, a TAB separates the two.
        domains: the domains that rows may have.
        default_domain: the domain of rows without one.
    """

    source: Path
    reader: RowReader
    roles: Mapping[str, int]
    has_pairs: bool
    domains: Sequence[str]
    default_domain: str

    def __iter__(self) -> Iterator[InputRow]:
        """Yield all rows, in order, with their line number and the other columns, by the names of ``kept_names``.

        Raises:
            DataError: the file cannot be read, or a row has a value that is not a text, one text instead of a pair,
                or a domain that is not the model's.
        """
        # The second text is kept too, because the record of a pair has only the first.
        others = [n for n in range(len(self.reader.columns)) if n not in (self.roles["text"], self.roles.get("domain"))]
        names = kept_names(_to_json(self.reader.columns[n]) for n in others)
        for line, values in self.reader.iter_rows([*self.roles.values(), *others]):
            where = f"{self.source}:{line}"
            # Skipping a row would assign all later predictions to the wrong rows.
            if values is None:
                raise DataError(f"{where}: wrong number of fields; expected {len(self.reader.columns)}")
            found = dict(zip(self.roles, values, strict=False))
            try:
                texts = {role: to_text(found[role]) or "" for role in _TEXT_ROLES if role in found}
            except InvalidTextError as error:
                raise DataError(f"{where}: {error}") from None
            text: Text
            if "text_pair" in texts:
                text = texts["text"], texts["text_pair"]
            else:
                text = split_pair(where, texts["text"], self.has_pairs)
            domain = self._check_domain(where, _to_domain(found.get("domain"))) or self.default_domain
            kept = dict(zip(names, map(_to_json, values[len(self.roles) :]), strict=True))
            yield InputRow(text, domain, {"line": line, **kept})

    def _check_domain(self, where: str, domain: str | None) -> str | None:
        if domain in (*self.domains, AUTO_DOMAIN, None):
            return domain
        column = self.reader.columns[self.roles["domain"]]
        raise DataError(
            f"{where}: domain {domain!r} (column {column!r}) is not one of the model's: "
            f"{join_names(self.domains, 20)}; correct it, or choose one for all rows with --domain"
            f"{did_you_mean(str(domain), self.domains)}"
        )


def read_texts(
    source: Path,
    *,
    text: str | None = None,
    text_pair: str | None = None,
    has_pairs: bool = False,
    domains: Sequence[str] = (),
    default_domain: str = AUTO_DOMAIN,
    on_event: OnEvent = ignore,
) -> TextTable:
    """Open a file of texts.

    Args:
        source: a file in one of the formats of ``prepare``; any other file has one text per line.
        text: column of the text; None finds it by common names, or uses the only column.
        text_pair: column of the second text; None finds it by common names, if the model reads pairs.
        has_pairs: whether the model reads pairs.
        domains: those of the model. The rows' domains are read from a column called "domain", or from one with another
            usual name that contains one of these domains, in any case. With no domains, none are read.
        default_domain: the domain of rows without one.
        on_event: receives a warning if the lines look like rows of a table.

    Raises:
        DataError: the file cannot be read or has no rows, or a column does not exist.
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
    used = set(_TEXT_ROLES if has_pairs or text_pair is not None else ("text",))
    if domains and "domain" in columns and _holds_domains(reader, columns["domain"], domains):
        used.add("domain")
    rows = islice(reader.iter_rows([columns["text"]]), _CHECKED_LINES)
    first = [str(values[0]) if values else "" for _, values in rows]
    if not first:
        raise DataError(f"{source}: no rows in it")
    if len(reader.columns) == 1:
        header = [] if file_format is PLAIN_TEXT else reader.columns
        _warn_of_table(source, [*header, *first], on_event)
    roles = {role: index for role, index in columns.items() if role in used}
    return TextTable(source, reader, roles, has_pairs, domains, default_domain)


def _holds_domains(reader: RowReader, column: int, domains: Sequence[str]) -> bool:
    """Return whether a column has the rows' domains; one called "genre" or the like may be about something else.

    It also has them in other case, so that these rows are an error, and not answered without their domain.
    """
    if normalize_name(reader.columns[column]) == "domain":
        return True
    known = {domain.casefold() for domain in domains}
    found = (_to_domain(values[0]) or "" for _, values in reader.iter_rows([column]) if values is not None)
    return any(name.casefold() in known for name in found)


def _to_domain(value: object) -> str | None:
    try:
        return clean_name(to_text(value) or "")
    except InvalidTextError:
        return str(value)


def _to_json(value: object) -> Any:
    """Return a value that JSON and UTF-8 can represent: dates become text; NaN and infinity, null."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode("utf-8")
    text = json.dumps(value, default=str, ensure_ascii=False)
    text = SURROGATE.sub(lambda found: rf"\\u{ord(found[0]):04x}", text)
    return json.loads(text, parse_constant=lambda _: None)


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
