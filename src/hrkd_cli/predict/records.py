"""The records of ``hrkd predict``: made from rows, and written to a file.

A record has the fields of its row (line number, other columns), then those of the prediction.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import tee
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from hrkd_cli.errors import MissingPackageError, OutputError, UsageError
from hrkd_cli.predict.text_input import InputRow

if TYPE_CHECKING:
    from hrkd_cli.predict.predictor import Predictor

Record = Mapping[str, Any]
Write = Callable[[Record], object]

_FIRST: dict[str, type] = {"line": int}
_LAST: dict[str, type] = {"text": str, "domain": str, "label": str, "probability": float, "scores": str}
_LAST |= {"domain_probability": float, "abstain": bool, "fallback": bool}
_ROW_GROUP = 10_000
_INT_LIMIT = 2**63
_EXACT_IN_FLOAT = 2**53
_BATCHES_READ = 16  # texts of similar length share a batch, so several batches are read at a time


def kept_names(columns: Iterable[str]) -> list[str]:
    """Return the names of other columns in the records: with ``input_`` in front while another key has that name."""
    names: dict[str, None] = dict.fromkeys((*_FIRST, *_LAST))
    for name in columns:
        while name in names:
            name = f"input_{name}"
        names[name] = None
    return [*names][len(_FIRST) + len(_LAST) :]


class _LargeInt(int):
    """Type of whole numbers that a float may not hold exactly."""


def value_type(value: object) -> type:
    """Return the type of a value in a Parquet file, for ``common_type``; ``str`` for what is written as JSON text."""
    if isinstance(value, int) and not -_INT_LIMIT <= value < _INT_LIMIT:
        return str
    if isinstance(value, int) and abs(value) > _EXACT_IN_FLOAT:
        return _LargeInt
    return type(value) if isinstance(value, bool | int | float) else str


def common_type(types: set[type]) -> type:
    """Return the type of a column whose values, apart from null, have these types."""
    if types and types <= {int, _LargeInt}:
        return int
    return next(iter(types)) if len(types) == 1 else float if types == {int, float} else str


def make_records(
    predictor: Predictor, rows: Iterable[InputRow], *, batch_size: int | None, as_they_arrive: bool
) -> Iterator[Record]:
    """Yield the record of each row.

    ``batch_size`` is that of ``Predictor.stream``. ``as_they_arrive``: label rows before the next batch is read.
    """
    if as_they_arrive and batch_size is None:
        batch_size = 1
    read_ahead = None if as_they_arrive or batch_size is None else _BATCHES_READ * batch_size
    rows, first, second = tee(rows, 3)
    predictions = predictor.stream(
        (row.text for row in first),
        domain=(row.domain for row in second),
        batch_size=batch_size,
        read_ahead=read_ahead,
    )
    for row, prediction in zip(rows, predictions, strict=True):
        yield {**row.fields, **prediction.to_json()}


def check_output(output: Path, source: Path | None, *, force: bool) -> None:
    """Check, before any work is done, that a file can be written, and that it is not the input.

    Raises:
        UsageError: its suffix is not that of a format.
        OutputError: it exists, or its folder does not.
    """
    if output.suffix not in _WRITERS:
        raise UsageError(f"--output: {output} ends with none of {', '.join(_WRITERS)}, the formats that can be written")
    if not output.parent.is_dir():
        raise OutputError(f"{output}: no such folder: {output.parent}")
    if not (output.exists() or output.is_symlink()):
        return
    if not output.is_file():
        raise OutputError(f"{output} is not a file and will not be replaced; choose another --output")
    if source is not None and output.samefile(source):
        raise OutputError(f"{output} is the input and will not be replaced; choose another --output")
    if not force:
        raise OutputError(f"{output} exists already; replace it with --force or choose another --output")


@contextmanager
def open_output(output: Path, kept: Mapping[str, type]) -> Iterator[Write]:
    """Open a file for records; it appears when it is complete. ``kept`` has the types of the other columns.

    Raises:
        MissingPackageError: Parquet needs pyarrow.
        OutputError: it cannot be written.
    """
    work = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        with _WRITERS[output.suffix](work, {**_FIRST, **kept, **_LAST}) as write:
            yield write
        work.replace(output)
    except OSError as error:
        problem = error.strerror or error
        raise OutputError(f"{output}: cannot be written ({problem}); choose another place with --output") from None
    finally:
        work.unlink(missing_ok=True)


@contextmanager
def _open_jsonl(path: Path, _columns: Mapping[str, type]) -> Iterator[Write]:
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        yield lambda record: stream.write(json.dumps(record, ensure_ascii=False) + "\n")


@contextmanager
def _open_csv(path: Path, columns: Mapping[str, type]) -> Iterator[Write]:
    with path.open("w", encoding="utf-8", newline="") as stream:
        # A value with CR or LF is only quoted if the line terminator, CR LF by default, has that character.
        lines: Any = SimpleNamespace(write=lambda line: stream.write(line.removesuffix("\r\n") + "\n"))
        writer = csv.DictWriter(lines, [*columns])
        writer.writeheader()
        yield lambda record: writer.writerow({name: _to_cell(value) for name, value in _flat(record).items()})


@contextmanager
def _open_parquet(path: Path, columns: Mapping[str, type]) -> Iterator[Write]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError:
        raise MissingPackageError("a Parquet file", "pyarrow") from None
    types = {int: pa.int64(), float: pa.float64(), bool: pa.bool_(), str: pa.string()}
    schema = pa.schema([(name, types[kind]) for name, kind in columns.items()])
    rows: list[Record] = []
    with pq.ParquetWriter(path, schema) as writer:

        def write_group() -> None:
            if rows:
                writer.write_batch(pa.RecordBatch.from_pylist(rows, schema))
                rows.clear()

        def write(record: Record) -> None:
            row = _flat(record)
            rows.append({name: _to_cell(row[name]) if columns[name] is str else row[name] for name in row})
            if len(rows) == _ROW_GROUP:
                write_group()

        yield write
        write_group()


_WRITERS = {".jsonl": _open_jsonl, ".csv": _open_csv, ".parquet": _open_parquet}


def _flat(record: Record) -> Record:
    """Return a record of a table: with the probability of the label, which is the largest score."""
    scores = record["scores"]
    return {**record, "probability": max(scores.values()) if scores else None}


def _to_cell(value: object) -> str | None:
    """Return a value as text; what is not a text becomes JSON."""
    return value if isinstance(value, str | None) else json.dumps(value, ensure_ascii=False)
