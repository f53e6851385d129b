"""The prepared dataset folder: one Parquet file per domain and split, ``dataset.json`` and a dataset card."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hrkd_cli.cards import render_card
from hrkd_cli.data.dataset import ROW_GROUP_SIZE, Dataset, TextRows, update_fingerprint
from hrkd_cli.errors import DataError, ModelError
from hrkd_cli.events import OnEvent, Progress
from hrkd_cli.json_files import read_any_object, read_json
from hrkd_cli.layout import SPLITS, DatasetFiles
from hrkd_cli.predict.name_validation import validate_names

FORMAT = "hrkd-dataset"
VERSION = 1

LOCATION = "location"  # column of the Parquet files; datasets of earlier versions lack it
SELECT_LOCATION = f"$files[file + 1] || ':' || line AS {LOCATION}"
"""SQL of the location (``file:line``) of a row in a row store; ``$files`` are the store's files."""

_SELECT_ROWS = f"""
SELECT {{columns}}, {SELECT_LOCATION} FROM final_rows WHERE drop_reason IS NULL
ORDER BY domain, CASE split WHEN 'train' THEN 0 WHEN 'dev' THEN 1 ELSE 2 END, id
"""


@dataclass(frozen=True, slots=True)
class DomainCounts:
    """Number of rows of a domain, by split and by label; the labels are sorted by name."""

    train: int
    dev: int
    test: int
    labels: dict[str, int]


def is_prepared(folder: Path) -> bool:
    """Return whether a folder was written by ``prepare``, in any version."""
    try:
        return bool(read_any_object(folder / DatasetFiles.manifest).get("format") == FORMAT)
    except ModelError:
        return False


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the content of ``dataset.json``.

    Raises:
        DataError: it is missing, was not written by ``prepare``, or has an unknown version.
    """
    path = folder / DatasetFiles.manifest
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; hrkd prepare makes a dataset folder")
    if not path.is_file():
        raise DataError(f"{folder}: not a prepared dataset (no {DatasetFiles.manifest}); make one with hrkd prepare")
    if not is_prepared(folder):
        raise DataError(f"{path}: not written by hrkd prepare, or damaged; prepare the data again")
    if (version := read_any_object(path).get("version")) != VERSION:
        raise DataError(
            f"{path}: version {version} of the dataset folder, this hrkd reads version {VERSION}; update hrkd-cli or "
            "prepare the data again"
        )
    try:
        return read_json(path)
    except ModelError as error:
        raise DataError(f"{error}; prepare the data again") from None


def list_data_files(folder: Path) -> list[Path]:
    """Return the Parquet files of a dataset folder, sorted by path.

    Raises:
        DataError: it is not such a folder, or a file is missing.
    """
    return sorted(_list_files(folder, read_manifest(folder)))


def open_dataset(folder: str | Path, *, with_locations: bool = False) -> Dataset:
    """Read a dataset folder written by ``prepare``; the locations of rows only if requested.

    Raises:
        DataError: it is not such a folder, or is incomplete.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    files = _list_files(folder, manifest)
    has_pairs = manifest["pair"]
    rows: dict[str, dict[str, TextRows]] = {domain: {} for domain in manifest["domains"]}
    for path, count in files.items():
        rows[path.parent.name][path.stem] = _read_rows(path, count, has_pairs=has_pairs, with_locations=with_locations)
    return Dataset.from_rows(rows, has_pairs=has_pairs, path=folder)


def _list_files(folder: Path, manifest: Mapping[str, Any]) -> dict[Path, int]:
    """Return the number of rows of each Parquet file that the manifest lists.

    Raises:
        DataError: a name is not allowed, or a file is missing.
    """
    validate_names(manifest["domains"], (), folder / DatasetFiles.manifest)
    files = {
        folder / DatasetFiles.data / domain / f"{split}.parquet": entry[split]
        for domain, entry in manifest["domains"].items()
        for split in SPLITS
        if entry[split]
    }
    for path in files:
        if not path.is_file():
            raise DataError(f"{path}: missing; prepare the data again")
    return files


def _read_rows(path: Path, count: int, *, has_pairs: bool, with_locations: bool) -> TextRows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = _text_columns(has_pairs=has_pairs)
    try:
        # Not read_table, which interprets a folder name such as "lang=en" as a partition.
        with pq.ParquetFile(str(path)) as file:
            columns += [name for name in file.schema_arrow.names if with_locations and name == LOCATION]
            values = file.read(columns=columns).to_pydict()
        rows = TextRows(values["text"], values.get("text_pair"), values["label"], values.get(LOCATION, []))
    except (pa.ArrowException, OSError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: cannot be read ({reason}); prepare the data again") from None
    if len(rows) != count:
        raise DataError(f"{path}: {len(rows)} rows, {DatasetFiles.manifest} says {count}; prepare the data again")
    return rows


def write_splits(
    folder: Path,
    connection: Any,
    domains: Mapping[str, DomainCounts],
    *,
    source_files: Sequence[str],
    has_pairs: bool,
    on_event: OnEvent,
) -> str:
    """Write a row store to one Parquet file per domain and split, and return the dataset's fingerprint.

    ``connection`` is that of a row store whose rows have splits, read from ``source_files``; ``domains`` are the
    counts, sorted by name.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = _text_columns(has_pairs=has_pairs)
    schema = pa.schema([(name, pa.string()) for name in (*columns, "domain", LOCATION)])
    files = [(domain, split, getattr(counts, split)) for domain, counts in domains.items() for split in SPLITS]
    # A relation, because a connection has a single pending result.
    query = _SELECT_ROWS.format(columns=", ".join((*columns, "domain")))
    relation = connection.sql(query, params={"files": list(source_files)})
    batches = relation.to_arrow_reader(ROW_GROUP_SIZE)
    buffered = batches.schema.empty_table()
    digest, written, total = hashlib.sha256(), 0, sum(count for _, _, count in files)
    # Texts seldom repeat, so a dictionary encoding of them would only be tried and abandoned.
    options: dict[str, Any] = {"compression": "zstd", "use_dictionary": ["label", "domain"]}
    for domain, split, count in files:
        if not count:
            continue
        path = folder / DatasetFiles.data / domain / f"{split}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(str(path), schema, **options) as writer:
            for first in range(0, count, ROW_GROUP_SIZE):
                size = min(ROW_GROUP_SIZE, count - first)
                while len(buffered) < size:
                    buffered = pa.concat_tables([buffered, pa.Table.from_batches([batches.read_next_batch()])])
                group, buffered = buffered.slice(0, size), buffered.slice(size)
                update_fingerprint(digest, domain, split, group.select(columns).to_pydict())
                writer.write_table(group, row_group_size=ROW_GROUP_SIZE)
                written += size
                on_event(Progress("writing rows", written, total))
    return digest.hexdigest()


def _text_columns(*, has_pairs: bool) -> list[str]:
    return ["text", "text_pair", "label"] if has_pairs else ["text", "label"]


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write ``dataset.json``, and a dataset card from which ``load_dataset`` finds the splits."""
    from huggingface_hub import DatasetCardData

    domains = manifest["domains"]
    splits = [split for split in SPLITS if any(counts[split] for counts in domains.values())]
    data_files = [{"split": split, "path": f"{DatasetFiles.data}/*/{split}.parquet"} for split in splits]
    card = render_card(
        "dataset.md.j2",
        DatasetCardData(
            task_categories=["text-classification"], configs=[{"config_name": "default", "data_files": data_files}]
        ),
        domains=domains,
        characters=manifest["characters"],
        findings=manifest["findings"],
        columns=[*_text_columns(has_pairs=manifest["pair"]), "domain", LOCATION],
        splits=SPLITS,
        manifest=DatasetFiles.manifest,
    )
    (folder / DatasetFiles.readme).write_text(card, encoding="utf-8")
    content = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    (folder / DatasetFiles.manifest).write_text(content, encoding="utf-8")
