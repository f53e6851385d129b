"""Parquet. pyarrow is imported when a file is read, so that predicting from other files starts faster."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from hrkd_cli.data.sources.table import Row, Table
from hrkd_cli.data.sources.text_file import TextFile
from hrkd_cli.errors import DataError

# Rows decoded at a time.
_BATCH = 4096


def open_parquet(file: TextFile) -> Table:
    """Open a Parquet file; the "line" of a row is its number, from 1."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with file.plain_errors(), file.path.open("rb") as start:
        if not start.read(64).strip():
            raise DataError(f"{file.path}: the file is empty")
    try:
        # Not read_table, which takes a folder name such as "lang=en" for a partition.
        opened = pq.ParquetFile(str(file.path))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file.path}: not a Parquet file that can be read: {_one_line(error)}") from None
    columns = list(opened.schema_arrow.names)
    names = _class_names(opened.schema_arrow.metadata)

    def batches(wanted: list[str]) -> Iterator[Any]:
        rows = 0
        try:
            for batch in opened.iter_batches(_BATCH, columns=wanted, use_threads=False):
                yield batch
                rows += len(batch)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{file.path}: cannot be read after row {rows}: {_one_line(error)}") from None

    return Table(columns, lambda wanted: numbered_rows(batches, [columns[i] for i in wanted], names))


def numbered_rows(batches: Any, wanted: list[str], names: dict[str, Sequence[str]]) -> Iterator[Row]:
    """Yield (row number from 1, values) of Arrow batches.

    Args:
        batches: given column names, yields record batches.
        wanted: the columns.
        names: class names by column; a class number without a name (-1 by custom) means that there is no label.
    """
    number = 0
    for batch in batches(list(dict.fromkeys(wanted))):
        lists = [_decode_classes(batch.column(name).to_pylist(), names.get(name)) for name in wanted]
        for number, values in enumerate(zip(*lists, strict=True), start=number + 1):  # noqa: B020
            yield number, values


def _decode_classes(values: list[Any], names: Sequence[str] | None) -> Iterable[Any]:
    if names is None:
        return values
    return [
        (names[value] if 0 <= value < len(names) else None) if isinstance(value, int) else value for value in values
    ]


def _class_names(metadata: dict[bytes, bytes] | None) -> dict[str, Sequence[str]]:
    """Return label names by column from what ``datasets`` notes in a file's schema."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return {
            name: [str(n) for n in feature["names"]]
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
