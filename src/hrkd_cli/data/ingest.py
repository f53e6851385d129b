"""Reading all files of a source into a row store."""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hrkd_cli.data.row_store import RowStore
from hrkd_cli.data.sources.columns import resolve_columns
from hrkd_cli.data.sources.row_reader import SourceFile
from hrkd_cli.errors import DataError, UsageError
from hrkd_cli.events import Note, OnEvent


def ingest(
    store: RowStore,
    files: Iterable[SourceFile],
    named_columns: Mapping[str, str],
    *,
    domains: Sequence[str] | None = None,
    encoding: str | None = None,
    on_event: OnEvent,
) -> None:
    """Read the files of a source into an empty store.

    ``named_columns`` are the column names that the user gave, by role. ``domains`` are those to keep (None keeps all).
    ``encoding`` is that of text files; None means that of the byte order mark, else UTF-8.

    Raises:
        DataError: a file cannot be parsed, or the source or one of its domains has no usable row.
        UsageError: the encoding is unknown.
    """
    if encoding is not None:
        try:
            codecs.lookup(encoding)
        except LookupError:
            raise UsageError(f"--encoding: {encoding!r} is not a known encoding; try utf-8 or cp1252") from None
    for file in files:
        reader = file.open(encoding)
        if reader.note:
            on_event(Note(reader.note))
        columns = resolve_columns(
            reader.columns, named_columns, file=file.display_name, file_names_domain=file.domain is not None
        )
        if file.split is not None and "split" not in named_columns:
            # A column that happens to be called "split" does not override the file's name.
            columns.pop("split", None)
        store.add(file, reader, columns, domains=domains, on_event=on_event)
    store.check(domains)


def compute_checksums(files: Iterable[SourceFile], store: RowStore | None = None) -> list[dict[str, Any]]:
    """Return path, size and sha256 of the files of a source; of the stored rows if the source has no files.

    Raises:
        DataError: a file cannot be read.
    """
    checksums = []
    for file in files:
        if file.path is None:
            return [] if store is None else [store.checksum()]
        try:
            with file.path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
                checksums.append({"path": file.relative_path, "bytes": stream.tell(), "sha256": digest})
        except OSError as error:
            raise DataError(f"{file.path}: cannot be read: {error.strerror or error}") from None
    return checksums
