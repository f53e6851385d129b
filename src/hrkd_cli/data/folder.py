"""Writing the prepared folder: a Parquet file per domain and split, and what describes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hrkd_cli.data.card import dataset_card
from hrkd_cli.data.dataset import Fingerprint
from hrkd_cli.data.ingest import RowStore
from hrkd_cli.data.manifest import DomainCounts
from hrkd_cli.events import OnEvent, Progress
from hrkd_cli.layout import DATASET

_GROUP_ROWS = 1 << 16
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


def write_splits(work: Path, store: RowStore, on_event: OnEvent) -> str:
    """Write the rows that have a split.

    Args:
        work: the folder to write into.
        store: rows with splits.
        on_event: told of rows written.

    Returns:
        The dataset's fingerprint.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = ["text", "text_pair", "label"] if store.pair else ["text", "label"]
    schema = pa.schema([(name, pa.string()) for name in (*names, "domain")])
    sizes = store.con.execute(_SIZES).fetchall()
    rows = _Taker(store.con.sql(_ROWS.format(", ".join(f"rows.{name}" for name in schema.names))))
    fingerprint, done, total = Fingerprint(), 0, sum(size for _, _, size in sizes)
    # Texts seldom repeat, so a dictionary of them would only be tried and given up.
    options: dict[str, Any] = {"compression": "zstd", "use_dictionary": ["label", "domain"]}
    for domain, split, size in sizes:
        path = work / DATASET.data / domain / f"{split}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(str(path), schema, **options) as writer:
            for first in range(0, size, _GROUP_ROWS):
                group = rows.take(min(_GROUP_ROWS, size - first))
                fingerprint.add(domain, split, group.select(names))
                writer.write_table(group, row_group_size=_GROUP_ROWS)
                done += len(group)
                on_event(Progress("writing rows", done, total))
    return fingerprint.hexdigest()


class _Taker:
    """Takes rows from a result, as many as are asked for, whatever the batches in which they come."""

    def __init__(self, result: Any) -> None:
        self._batches = result.to_arrow_reader(_GROUP_ROWS)
        self._held = self._batches.schema.empty_table()

    def take(self, count: int) -> Any:
        """Return the next rows as an Arrow table."""
        import pyarrow as pa

        while len(self._held) < count:
            self._held = pa.concat_tables([self._held, pa.Table.from_batches([self._batches.read_next_batch()])])
        taken, self._held = self._held.slice(0, count), self._held.slice(count)
        return taken


def write_papers(work: Path, domains: Mapping[str, DomainCounts], manifest: Mapping[str, Any], *, pair: bool) -> None:
    """Write what describes the dataset.

    Args:
        work: the folder to write into.
        domains: counts by domain.
        manifest: content of dataset.json.
        pair: whether rows have two texts.
    """
    (work / DATASET.readme).write_text(dataset_card(domains, pair=pair), encoding="utf-8")
    (work / DATASET.manifest).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
