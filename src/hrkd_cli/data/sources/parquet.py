"""Parquet. pyarrow is imported when a file is read: predicting on a device goes without it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hrkd_cli.data.sources.records import Row, Table
from hrkd_cli.data.sources.textfile import read_bytes
from hrkd_cli.errors import DataError


def read_parquet(path: Path) -> Table:
    """Read a Parquet file; the "line" of a row is its number, from 1."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(read_bytes(path)))
        columns = list(file.schema_arrow.names)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a Parquet file that can be read: {_one_line(error)}") from None
    names = _class_names(file.schema_arrow.metadata)

    def rows(wanted: Sequence[int]) -> Iterator[Row]:
        number = 0
        chosen = [columns[i] for i in wanted]
        try:
            for batch in file.iter_batches(columns=list(dict.fromkeys(chosen))):
                lists = [decode_classes(batch.column(name).to_pylist(), names.get(name)) for name in chosen]
                for values in zip(*lists, strict=True):
                    number += 1
                    yield number, values
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path}: cannot be read after row {number}: {_one_line(error)}") from None

    return Table(columns, rows)


def decode_classes(values: list[Any], names: Sequence[str] | None) -> list[Any]:
    """Turn class numbers into their names; a number without a name (-1 by custom) means "no label"."""
    if names is None:
        return values
    return [
        (names[value] if 0 <= value < len(names) else None) if isinstance(value, int) else value for value in values
    ]


def _class_names(metadata: dict[bytes, bytes] | None) -> dict[str, list[str]]:
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
