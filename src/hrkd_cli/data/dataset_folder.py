"""The prepared dataset folder: one Parquet file per domain and split, ``dataset.json`` and a dataset card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hrkd_cli.cards import render_card
from hrkd_cli.data.dataset import Dataset, TextRows
from hrkd_cli.errors import DataError, ModelError
from hrkd_cli.json_files import read_any_object, read_json
from hrkd_cli.layout import SPLITS, DatasetFiles
from hrkd_cli.predict.name_validation import validate_names

FORMAT = "hrkd-dataset"
VERSION = 1

LOCATION = "location"  # column of the Parquet files: where a row was in the source (``file:line``)


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
        DataError: it is damaged, or has an unknown version.
    """
    path = folder / DatasetFiles.manifest
    try:
        manifest = read_json(path)
    except ModelError as error:
        raise DataError(f"{error}; prepare the data again") from None
    if (version := manifest.get("version")) != VERSION:
        raise DataError(
            f"{path}: version {version} of the dataset folder, this hrkd reads version {VERSION}; update hrkd-cli or "
            "prepare the data again"
        )
    return manifest


def open_dataset(folder: str | Path, *, with_locations: bool = False) -> Dataset:
    """Read a dataset folder written by ``prepare``; the locations of rows only if requested.

    Raises:
        DataError: it is damaged or incomplete, or has an unknown version.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    files = list_files(folder, manifest)
    has_pairs = manifest["pair"]
    rows: dict[str, dict[str, TextRows]] = {domain: {} for domain in manifest["domains"]}
    for path, count in files.items():
        rows[path.parent.name][path.stem] = _read_rows(path, count, has_pairs=has_pairs, with_locations=with_locations)
    return Dataset.from_rows(rows, has_pairs=has_pairs, path=folder)


def list_files(folder: Path, manifest: Mapping[str, Any]) -> dict[Path, int]:
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

    columns = [*text_columns(has_pairs=has_pairs), *([LOCATION] if with_locations else [])]
    try:
        # Not read_table, which interprets a folder name such as "lang=en" as a partition.
        with pq.ParquetFile(str(path)) as file:
            values = file.read(columns=columns).to_pydict()
        rows = TextRows(values["text"], values.get("text_pair"), values["label"], values.get(LOCATION, []))
    except (pa.ArrowException, OSError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: cannot be read ({reason}); prepare the data again") from None
    if len(rows) != count:
        raise DataError(f"{path}: {len(rows)} rows, {DatasetFiles.manifest} says {count}; prepare the data again")
    return rows


def text_columns(*, has_pairs: bool) -> list[str]:
    """Return the names of the columns that enter the fingerprint."""
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
        columns=[*text_columns(has_pairs=manifest["pair"]), "domain", LOCATION],
        splits=SPLITS,
        manifest=DatasetFiles.manifest,
    )
    (folder / DatasetFiles.readme).write_text(card, encoding="utf-8")
    content = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    (folder / DatasetFiles.manifest).write_text(content, encoding="utf-8")
