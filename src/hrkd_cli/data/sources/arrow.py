"""Arrow record batches as rows: Parquet files and datasets loaded by the ``datasets`` library."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from hrkd_cli.data.sources.row_reader import RowReader, SourceRow
from hrkd_cli.data.sources.text_file import TextFile
from hrkd_cli.errors import DataError, one_line

BATCH_ROWS = 4096  # rows decoded at a time


def open_parquet(file: TextFile) -> RowReader:
    """Open a Parquet file; line numbers are row numbers, from 1."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Not read_table, which interprets a folder name such as "lang=en" as a partition.
        parquet = pq.ParquetFile(str(file.path))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file.path}: not a readable Parquet file: {one_line(error)}") from None

    def iter_batches(columns: list[str]) -> Iterator[Any]:
        rows = 0
        try:
            for batch in parquet.iter_batches(BATCH_ROWS, columns=columns, use_threads=False):
                yield batch
                rows += len(batch)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{file.path}: cannot be read after row {rows}: {one_line(error)}") from None

    schema = parquet.schema_arrow
    return make_arrow_reader(list(schema.names), iter_batches, _read_class_names(schema.metadata))


def make_arrow_reader(
    columns: list[str],
    iter_batches: Callable[[list[str]], Iterable[Any]],
    class_names: Mapping[str, Sequence[str]],
) -> RowReader:
    """Return a reader of Arrow record batches; ``iter_batches`` yields them with the given columns.

    ``class_names`` are class names by column; a class index without a name (usually -1) means no label.
    """

    def iter_rows(indices: Sequence[int]) -> Iterator[SourceRow]:
        wanted, number = {columns[index] for index in indices}, 0
        # Several columns of a Parquet file may have one name, and then all of them are read.
        read = [index for index, name in enumerate(columns) if name in wanted]
        for batch in iter_batches(list(dict.fromkeys(columns[index] for index in read))):
            values = [
                _decode_classes(batch.column(read.index(index)).to_pylist(), class_names.get(columns[index]))
                for index in indices
            ]
            for row in zip(*values, strict=True):
                number += 1
                yield number, row

    return RowReader(columns, iter_rows)


def _decode_classes(values: list[Any], class_names: Sequence[str] | None) -> Iterable[Any]:
    """Replace class indices by their names."""
    if class_names is None:
        return values
    names = dict(enumerate(class_names))
    return [names.get(value) if isinstance(value, int) else value for value in values]


def _read_class_names(metadata: dict[bytes, bytes] | None) -> dict[str, Sequence[str]]:
    """Return class names by column from the ``datasets`` features in a file's schema metadata."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return {
            name: [str(n) for n in feature["names"]]
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}
