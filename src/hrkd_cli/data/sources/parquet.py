"""Parquet. pyarrow is imported when a file is read: predicting on a device goes without it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hrkd_cli.data.sources.records import Piece, Row, Table, piecewise
from hrkd_cli.data.sources.textfile import check_not_empty
from hrkd_cli.errors import DataError

# Rows decoded at a time.
_BATCH = 4096


def read_parquet(path: Path) -> Table:
    """Read a Parquet file; the "line" of a row is its number, from 1."""
    check_not_empty(path)
    with _open(path) as file:
        columns = list(file.schema_arrow.names)
        groups = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
    row_bytes = path.stat().st_size / max(1, sum(groups))

    def pieces() -> Iterator[Piece]:
        line = 1
        for number, rows in enumerate(groups):
            yield Piece(str(path), "parquet", number, number + 1, line, int(rows * row_bytes))
            line += rows

    return piecewise(columns, pieces, parquet_rows)


def parquet_rows(piece: Piece, columns: Sequence[str], wanted: Sequence[int]) -> Iterator[Row]:
    """Read row groups."""
    import pyarrow as pa

    number = piece.line - 1
    chosen = [columns[i] for i in wanted]
    with _open(Path(piece.path)) as file:
        names = _class_names(file.schema_arrow.metadata)
        groups = list(range(piece.start, piece.stop))
        unique = list(dict.fromkeys(chosen))
        try:
            for batch in file.iter_batches(_BATCH, row_groups=groups, columns=unique, use_threads=False):
                lists = [decode_classes(batch.column(name).to_pylist(), names.get(name)) for name in chosen]
                for values in zip(*lists, strict=True):
                    number += 1
                    yield number, values
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{piece.path}: cannot be read after row {number}: {_one_line(error)}") from None


def decode_classes(values: list[Any], names: Sequence[str] | None) -> list[Any]:
    """Turn class numbers into their names; a number without a name (-1 by custom) means "no label"."""
    if names is None:
        return values
    return [
        (names[value] if 0 <= value < len(names) else None) if isinstance(value, int) else value for value in values
    ]


def _open(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(str(path))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a Parquet file that can be read: {_one_line(error)}") from None


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
