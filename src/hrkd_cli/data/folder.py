"""Writing the prepared folder: whole or not at all, and never over what is not ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hrkd_cli.data.card import dataset_card
from hrkd_cli.data.dataset import Dataset
from hrkd_cli.data.manifest import is_prepared
from hrkd_cli.layout import DATASET
from hrkd_cli.outputs import check_output, whole_folder


def write_folder(out: Path, dataset: Dataset, manifest: dict[str, Any], *, force: bool) -> None:
    """Write a prepared dataset into ``OUT.partial`` and rename it when it is whole.

    Args:
        out: the folder to be written.
        dataset: its rows.
        manifest: content of dataset.json.
        force: see ``hrkd_cli.outputs.check_output``.

    Raises:
        OutputError: the output is there, or cannot be written (a full disk); nothing is left behind.
    """
    check_output(out, kind="dataset", is_ours=is_prepared, force=force)
    with whole_folder(out) as work:
        for domain, parts in dataset.rows.items():
            (work / DATASET.data / domain).mkdir(parents=True)
            for split in parts:
                _write_parquet(work / DATASET.data / domain / f"{split}.parquet", dataset, domain, split)
        (work / DATASET.readme).write_text(dataset_card(dataset), encoding="utf-8")
        (work / DATASET.manifest).write_text(
            json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )


def _write_parquet(path: Path, dataset: Dataset, domain: str, split: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = dataset.rows[domain][split]
    columns = {"text": rows.texts, "label": rows.labels, "domain": [domain] * len(rows)}
    if rows.pairs is not None:
        columns = {"text": rows.texts, "text_pair": rows.pairs, "label": rows.labels, "domain": columns["domain"]}
    schema = pa.schema([(name, pa.string()) for name in columns])
    pq.write_table(pa.table(columns, schema=schema), str(path), compression="zstd")
