"""The prepared folder's README.md: a dataset card that ``datasets.load_dataset`` reads the splits from."""

from __future__ import annotations

import json

from hrkd_cli.data.dataset import Dataset
from hrkd_cli.layout import DATASET, SPLITS


def dataset_card(dataset: Dataset) -> str:
    """Return the card's Markdown, with the YAML header that names the files of each split."""
    splits = [split for split in SPLITS if any(len(dataset.split(name, split)) for name in dataset.domains)]
    header = ["---", "task_categories:", "- text-classification", "configs:", "- config_name: default", "  data_files:"]
    for split in splits:
        # Quoted: an unquoted * is YAML's own.
        header += [f"  - split: {split}", f"    path: {json.dumps(f'{DATASET.data}/*/{split}.parquet')}"]
    header += ["---"]
    columns = "`text`, `text_pair`, `label`, `domain`" if dataset.pair else "`text`, `label`, `domain`"
    body = [
        "",
        f"# Text classification in {len(dataset.domains)} domains",
        "",
        f"Made by `hrkd prepare`. Columns: {columns}, all strings. `{DATASET.manifest}` holds the counts, the sources",
        "and the rows that were left out.",
        "",
        f"| domain | {' | '.join(SPLITS)} | labels |",
        f"| --- | {' | '.join('---:' for _ in SPLITS)} | --- |",
        *(_row(dataset, name) for name in dataset.domains),
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        'data = load_dataset("path/to/this/folder")',
        "```",
        "",
    ]
    return "\n".join([*header, *body])


def _row(dataset: Dataset, name: str) -> str:
    counts = [str(len(dataset.split(name, split))) for split in SPLITS]
    cells = [name, *counts, ", ".join(dataset.labels[name])]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
