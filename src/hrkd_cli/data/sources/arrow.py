"""Tables of Arrow batches: Parquet files, and what the ``datasets`` library loads."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from hrkd_cli.data.sources.columns import Row, Table
from hrkd_cli.data.sources.text_file import TextFile
from hrkd_cli.errors import DataError, one_line

BATCH = 4096
"""Rows decoded at a time."""


def open_parquet(file: TextFile) -> Table:
    """Open a Parquet file; the "line" of a row is its number, from 1."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Not read_table, which takes a folder name such as "lang=en" for a partition.
        opened = pq.ParquetFile(str(file.path))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file.path}: not a Parquet file that can be read: {one_line(error)}") from None

    def batches(wanted: list[str]) -> Iterator[Any]:
        rows = 0
        try:
            for batch in opened.iter_batches(BATCH, columns=wanted, use_threads=False):
                yield batch
                rows += len(batch)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{file.path}: cannot be read after row {rows}: {one_line(error)}") from None

    schema = opened.schema_arrow
    return arrow_table(list(schema.names), batches, _class_names(schema.metadata))


def arrow_table(
    columns: list[str], batches: Callable[[list[str]], Iterable[Any]], names: Mapping[str, Sequence[str]]
) -> Table:
    """Return the table of Arrow batches.

    Args:
        columns: column names.
        batches: given column names, yields record batches.
        names: class names by column; a class number without a name (-1 by custom) means that there is no label.
    """

    def rows(wanted: Sequence[int]) -> Iterator[Row]:
        chosen, number = [columns[i] for i in wanted], 0
        for batch in batches(list(dict.fromkeys(chosen))):
            lists = [_decode_classes(batch.column(name).to_pylist(), names.get(name)) for name in chosen]
            for number, values in enumerate(zip(*lists, strict=True), start=number + 1):  # noqa: B020
                yield number, values

    return Table(columns, rows)


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
