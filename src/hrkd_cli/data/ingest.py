"""Reading all files of a source into a row store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from hrkd_cli.command_settings import PrepareSettings
from hrkd_cli.data.label_checks import ONE_LABEL
from hrkd_cli.data.row_batches import ANSWER
from hrkd_cli.data.row_store import RowStore
from hrkd_cli.data.sources.columns import COLUMN_ALIASES, MissingLabelError, normalize_name, resolve_columns
from hrkd_cli.data.sources.row_reader import RowReader, SourceFile
from hrkd_cli.errors import DataError, UsageError
from hrkd_cli.events import Note, OnEvent
from hrkd_cli.formatting import join_names

_FLAGS = frozenset({"0", "1", "0.0", "1.0", "False", "True"})


def ingest(store: RowStore, files: Iterable[SourceFile], settings: PrepareSettings, on_event: OnEvent) -> None:
    """Read the files of a source into an empty store.

    Raises:
        DataError: a file cannot be parsed, or the source or one of its domains has no usable row.
        UsageError: the encoding is unknown.
    """
    _check_encoding(settings.encoding)
    one_domain, named_columns = settings.one_domain, settings.columns
    failures: list[MissingLabelError] = []
    noted: set[str] = set()
    for source_file in files:
        file = source_file if one_domain is None else replace(source_file, domain=one_domain, is_only_domain=False)
        reader = file.open(settings.encoding, not settings.no_header)
        try:
            columns = _find_columns(reader, file, named_columns)
        except MissingLabelError as error:
            if file.split != "test":
                raise
            failures.append(error)  # published test files often have no labels
            continue
        if one_domain is not None:
            columns.pop("domain", None)
        for note in (reader.note, _describe_columns(reader, columns, named_columns)):
            if note and note not in noted:
                on_event(Note(note))
                noted.add(note)
        if file.is_only_domain and file.split is not None and "domain" not in columns and not store.first_file:
            by_name = f"one domain, {file.domain!r}, by the names of the files"
            on_event(Note(f"{by_name}; hrkd prepare --one-domain NAME gives it another name"))
        store.add(file, reader, columns, domains=settings.domains, on_event=on_event)
    if failures and not store.first_file:
        raise failures[0]
    for failure in failures:
        on_event(Note(f"not read: {failure}", warning=True))
    store.check(settings.domains)


def _find_columns(reader: RowReader, file: SourceFile, named: Mapping[str, str]) -> dict[str, int]:
    """Return column indices by role, also that of annotators' answers."""
    try:
        columns = resolve_columns(
            reader.columns,
            named,
            file=file.display_name,
            file_names_domain=file.domain is not None,
            prefer_domain_column=file.is_only_domain,
        )
    except MissingLabelError as error:
        names_label = not set(map(normalize_name, reader.columns)).isdisjoint(COLUMN_ALIASES["label"])
        flags = [] if names_label or "label" in named else _find_flags(reader)
        if len(flags) < 3:  # one or two may be about something else
            raise
        problem = str(error).removeprefix(f"{file.display_name}: ")
        raise MissingLabelError(
            f"{file.display_name}: several labels per row ({join_names(flags)}); {ONE_LABEL}, so name one of them with "
            f"hrkd prepare --label; {problem}"
        ) from None
    if file.split is not None and "split" not in named:
        # A column that happens to be called "split" does not override the file's name.
        columns.pop("split", None)
    if ANSWER in reader.columns and (index := reader.columns.index(ANSWER)) not in columns.values():
        columns[ANSWER] = index
    return columns


def _find_flags(reader: RowReader) -> list[str]:
    """Return the columns that have only zeros and ones in the first rows."""
    seen: list[set[str]] = [set() for _ in reader.columns]
    for _, row in islice(reader.iter_rows(range(len(seen))), 100):
        for values, value in zip(seen, row or (), strict=False):
            values.add(str(value))
    return [name for name, values in zip(reader.columns, seen, strict=True) if values and values <= _FLAGS]


def _check_encoding(encoding: str | None) -> None:
    if encoding is not None:
        try:
            "".encode(encoding)  # also refuses codecs that are no text encoding, such as rot13
        except LookupError:
            raise UsageError(f"--encoding: {encoding!r} is not a known encoding; try utf-8 or cp1252") from None


def _describe_columns(reader: RowReader, columns: Mapping[str, int], named: Mapping[str, str]) -> str | None:
    """Return which columns were taken, if a name does not contain that of its role."""
    names = {role: reader.columns[index] for role, index in columns.items() if role not in named}
    unlike = [f"{role} = {name}" for role, name in names.items() if role not in name.lower()]
    return f"columns: {', '.join(unlike)}" if unlike else None


def compute_checksums(files: Iterable[SourceFile], store: RowStore) -> list[dict[str, Any]]:
    """Return path, size and sha256 of the files of a source; of the stored rows if the source has no files.

    Raises:
        DataError: a file cannot be read.
    """
    checksums = [_compute_checksum(file.path, file.relative_path) for file in files if file.path is not None]
    return checksums or [store.checksum()]


def _compute_checksum(path: Path, name: str) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    try:
        # A folder of texts is read as one file; the name of each text counts too.
        for text in sorted(filter(Path.is_file, path.iterdir())) if path.is_dir() else [path]:
            digest.update(text.name.encode() if text != path else b"")
            with text.open("rb") as stream:
                hashlib.file_digest(stream, lambda: digest)
                size += stream.tell()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    return {"path": name, "bytes": size, "sha256": digest.hexdigest()}
