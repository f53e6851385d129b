"""The prepared dataset folder: a Parquet file per domain and split, ``dataset.json`` and a dataset card."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hrkd_cli.cards import render_card
from hrkd_cli.data.dataset import ROW_GROUP_SIZE, Dataset, TextRows, update_fingerprint
from hrkd_cli.errors import DataError
from hrkd_cli.events import OnEvent, Progress
from hrkd_cli.layout import SPLITS, DatasetFiles

FORMAT = "hrkd-dataset"
VERSION = 1

_ROWS = """
SELECT {} FROM placed WHERE reason IS NULL
ORDER BY domain, CASE split WHEN 'train' THEN 0 WHEN 'dev' THEN 1 ELSE 2 END, id
"""


@dataclass(frozen=True, slots=True)
class DomainCounts:
    """Rows of a domain in the dataset, by split and by label; the labels are sorted by name."""

    train: int
    dev: int
    test: int
    labels: dict[str, int]


def is_prepared(folder: Path) -> bool:
    """Tell whether a folder is a prepared dataset of ours, of any version."""
    try:
        content = json.loads((folder / DatasetFiles.manifest).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the content of ``dataset.json``.

    Raises:
        DataError: it is missing, not ours, or of a version that this program does not know.
    """
    path = folder / DatasetFiles.manifest
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; hrkd prepare makes a dataset folder")
    if not path.is_file():
        raise DataError(f"{folder}: not a prepared dataset (no {DatasetFiles.manifest}); make one with hrkd prepare")
    if not is_prepared(folder):
        raise DataError(f"{path}: not written by hrkd prepare, or damaged; prepare the data again")
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    if content.get("version") != VERSION:
        raise DataError(
            f"{path}: version {content.get('version')} of the dataset folder, this hrkd reads version {VERSION}; "
            "update hrkd-cli or prepare the data again"
        )
    return content


def open_dataset(folder: str | Path) -> Dataset:
    """Open a prepared dataset folder.

    Args:
        folder: what ``prepare`` wrote.

    Raises:
        DataError: it is no such folder, or not whole.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    try:
        pair = bool(manifest["pair"])
        counts = {
            (str(domain), split): int(entry[split]) for domain, entry in manifest["domains"].items() for split in SPLITS
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DataError(f"{folder / DatasetFiles.manifest}: damaged; prepare the data again") from None
    rows: dict[str, dict[str, TextRows]] = {}
    for (domain, split), count in counts.items():
        parts = rows.setdefault(domain, {})
        if count:
            parts[split] = _read_rows(folder / DatasetFiles.data / domain / f"{split}.parquet", count, pair=pair)
    return Dataset.from_rows(rows, has_pairs=pair, path=folder)


def _read_rows(path: Path, count: int, *, pair: bool) -> TextRows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise DataError(f"{path}: missing; prepare the data again")
    names = _columns(pair=pair)
    try:
        # Not read_table, which takes a folder name such as "lang=en" for a partition.
        with pq.ParquetFile(str(path)) as file:
            lists = file.read(columns=names).to_pydict()
        rows = TextRows(texts=lists["text"], pairs=lists.get("text_pair"), labels=lists["label"])
    except (pa.ArrowException, OSError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: cannot be read ({reason}); prepare the data again") from None
    if len(rows) != count:
        raise DataError(f"{path}: {len(rows)} rows, {DatasetFiles.manifest} says {count}; prepare the data again")
    return rows


def write_splits(work: Path, con: Any, domains: Mapping[str, DomainCounts], *, pair: bool, on_event: OnEvent) -> str:
    """Write the rows that have a split.

    Args:
        work: the folder to write into.
        con: DuckDB connection with the rows and their splits.
        domains: counts by domain, sorted by name.
        pair: whether rows have two texts.
        on_event: told of rows written.

    Returns:
        The dataset's fingerprint.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = _columns(pair=pair)
    schema = pa.schema([(name, pa.string()) for name in (*names, "domain")])
    sizes = [(domain, split, getattr(counts, split)) for domain, counts in domains.items() for split in SPLITS]
    # A connection has one pending result; a relation is one of its own.
    batches = con.sql(_ROWS.format(", ".join(schema.names))).to_arrow_reader(ROW_GROUP_SIZE)
    held = batches.schema.empty_table()
    digest, done, total = hashlib.sha256(), 0, sum(size for _, _, size in sizes)
    # Texts seldom repeat, so a dictionary of them would only be tried and given up.
    options: dict[str, Any] = {"compression": "zstd", "use_dictionary": ["label", "domain"]}
    for domain, split, size in sizes:
        if not size:
            continue
        path = work / DatasetFiles.data / domain / f"{split}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(str(path), schema, **options) as writer:
            left = size
            while left:
                count = min(ROW_GROUP_SIZE, left)
                while len(held) < count:
                    held = pa.concat_tables([held, pa.Table.from_batches([batches.read_next_batch()])])
                group, held = held.slice(0, count), held.slice(count)
                update_fingerprint(digest, domain, split, group.select(names).to_pydict())
                writer.write_table(group, row_group_size=ROW_GROUP_SIZE)
                left -= count
                done += count
                on_event(Progress("writing rows", done, total))
    return digest.hexdigest()


def _columns(*, pair: bool) -> list[str]:
    return ["text", "text_pair", "label"] if pair else ["text", "label"]


def write_manifest(work: Path, manifest: Mapping[str, Any]) -> None:
    """Write ``dataset.json``, and a dataset card from which ``load_dataset`` reads the splits."""
    from huggingface_hub import DatasetCardData

    domains = manifest["domains"]
    there = [split for split in SPLITS if any(counts[split] for counts in domains.values())]
    files = [{"split": split, "path": f"{DatasetFiles.data}/*/{split}.parquet"} for split in there]
    card = render_card(
        "dataset.md.j2",
        DatasetCardData(
            task_categories=["text-classification"], configs=[{"config_name": "default", "data_files": files}]
        ),
        domains=domains,
        columns=[*_columns(pair=manifest["pair"]), "domain"],
        splits=SPLITS,
        manifest=DatasetFiles.manifest,
    )
    (work / DatasetFiles.readme).write_text(card, encoding="utf-8")
    (work / DatasetFiles.manifest).write_text(
        json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
