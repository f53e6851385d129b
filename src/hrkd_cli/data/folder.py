"""The prepared dataset folder: a Parquet file per domain and split, ``dataset.json`` and a dataset card."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hrkd_cli.cards import render_card
from hrkd_cli.data.dataset import GROUP_ROWS, Dataset, Rows, add_rows, make_dataset
from hrkd_cli.errors import DataError
from hrkd_cli.events import OnEvent, Progress
from hrkd_cli.layout import DATASET, SPLITS

FORMAT = "hrkd-dataset"
VERSION = 1

_FROM = """
FROM placed JOIN rows ON rows.rowid = placed.id JOIN strata USING (stratum)
WHERE placed.reason IS NULL
"""
_SPLIT_NUMBER = "CASE placed.split WHEN 'train' THEN 0 WHEN 'dev' THEN 1 ELSE 2 END"
_SIZES = f"""
SELECT any_value(rows.domain), any_value(placed.split), count(*) {_FROM}
GROUP BY strata.domain_number, {_SPLIT_NUMBER} ORDER BY strata.domain_number, {_SPLIT_NUMBER}
"""
_ROWS = f"SELECT {{}} {_FROM} ORDER BY strata.domain_number, {_SPLIT_NUMBER}, placed.id"


@dataclass(frozen=True, slots=True)
class DomainCounts:
    """Rows of a domain in the dataset, by split and by label; the labels are sorted by name."""

    train: int
    dev: int
    test: int
    labels: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def is_prepared(folder: Path) -> bool:
    """Tell whether a folder is a prepared dataset of ours, of any version."""
    try:
        content = json.loads((folder / DATASET.manifest).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the content of ``dataset.json``.

    Raises:
        DataError: it is missing, not ours, or of a version that this program does not know.
    """
    path = folder / DATASET.manifest
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; hrkd prepare makes a dataset folder")
    if not path.is_file():
        raise DataError(f"{folder}: not a prepared dataset (no {DATASET.manifest}); make one with hrkd prepare")
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
        raise DataError(f"{folder / DATASET.manifest}: damaged; prepare the data again") from None
    rows: dict[str, dict[str, Rows]] = {}
    for (domain, split), count in counts.items():
        parts = rows.setdefault(domain, {})
        if count:
            parts[split] = _read_rows(folder / DATASET.data / domain / f"{split}.parquet", count, pair=pair)
    return make_dataset(rows, pair=pair, path=folder)


def _read_rows(path: Path, count: int, *, pair: bool) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise DataError(f"{path}: missing; prepare the data again")
    names = ["text", "text_pair", "label"] if pair else ["text", "label"]
    try:
        # Not read_table, which takes a folder name such as "lang=en" for a partition.
        with pq.ParquetFile(str(path)) as file:
            lists = file.read(columns=names).to_pydict()
        rows = Rows(texts=lists["text"], pairs=lists.get("text_pair"), labels=lists["label"])
    except (pa.ArrowException, OSError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: cannot be read ({reason}); prepare the data again") from None
    if len(rows) != count:
        raise DataError(f"{path}: {len(rows)} rows, {DATASET.manifest} says {count}; prepare the data again")
    return rows


def write_splits(work: Path, con: Any, *, pair: bool, on_event: OnEvent) -> str:
    """Write the rows that have a split.

    Args:
        work: the folder to write into.
        con: DuckDB connection with the rows and their splits.
        pair: whether rows have two texts.
        on_event: told of rows written.

    Returns:
        The dataset's fingerprint.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = ["text", "text_pair", "label"] if pair else ["text", "label"]
    schema = pa.schema([(name, pa.string()) for name in (*names, "domain")])
    sizes = con.execute(_SIZES).fetchall()
    # A connection has one pending result; a relation is one of its own.
    batches = con.sql(_ROWS.format(", ".join(f"rows.{name}" for name in schema.names))).to_arrow_reader(GROUP_ROWS)
    held = batches.schema.empty_table()
    digest, done, total = hashlib.sha256(), 0, sum(size for _, _, size in sizes)
    # Texts seldom repeat, so a dictionary of them would only be tried and given up.
    options: dict[str, Any] = {"compression": "zstd", "use_dictionary": ["label", "domain"]}
    for domain, split, size in sizes:
        path = work / DATASET.data / domain / f"{split}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(str(path), schema, **options) as writer:
            left = size
            while left:
                count = min(GROUP_ROWS, left)
                while len(held) < count:
                    held = pa.concat_tables([held, pa.Table.from_batches([batches.read_next_batch()])])
                group, held = held.slice(0, count), held.slice(count)
                add_rows(digest, domain, split, group.select(names).to_pydict())
                writer.write_table(group, row_group_size=GROUP_ROWS)
                left -= count
                done += count
                on_event(Progress("writing rows", done, total))
    return digest.hexdigest()


def write_papers(work: Path, domains: Mapping[str, DomainCounts], manifest: Mapping[str, Any], *, pair: bool) -> None:
    """Write what describes the dataset: ``dataset.json``, and a card from which ``load_dataset`` reads the splits.

    Args:
        work: the folder to write into.
        domains: counts by domain.
        manifest: content of dataset.json.
        pair: whether rows have two texts.
    """
    from huggingface_hub import DatasetCardData

    there = [split for split in SPLITS if any(getattr(counts, split) for counts in domains.values())]
    files = [{"split": split, "path": f"{DATASET.data}/*/{split}.parquet"} for split in there]
    card = render_card(
        "dataset.md.j2",
        DatasetCardData(
            task_categories=["text-classification"], configs=[{"config_name": "default", "data_files": files}]
        ),
        domains={name: asdict(counts) for name, counts in domains.items()},
        columns=["text", "text_pair", "label", "domain"] if pair else ["text", "label", "domain"],
        splits=SPLITS,
        manifest=DATASET.manifest,
    )
    (work / DATASET.readme).write_text(card, encoding="utf-8")
    (work / DATASET.manifest).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
