"""The prepared folder's README.md: a dataset card that ``datasets.load_dataset`` reads the splits from."""

from __future__ import annotations

import json
from collections.abc import Mapping

from hrkd_cli.data.manifest import DomainCounts
from hrkd_cli.layout import DATASET, SPLITS


def dataset_card(domains: Mapping[str, DomainCounts], *, pair: bool) -> str:
    """Return the card's Markdown, with the YAML header that names the files of each split.

    Args:
        domains: counts by domain.
        pair: whether rows have two texts.
    """
    splits = [split for split in SPLITS if any(getattr(counts, split) for counts in domains.values())]
    header = ["---", "task_categories:", "- text-classification", "configs:", "- config_name: default", "  data_files:"]
    for split in splits:
        # Quoted: an unquoted * is YAML's own.
        header += [f"  - split: {split}", f"    path: {json.dumps(f'{DATASET.data}/*/{split}.parquet')}"]
    header += ["---"]
    columns = "`text`, `text_pair`, `label`, `domain`" if pair else "`text`, `label`, `domain`"
    body = [
        "",
        f"# Text classification in {len(domains)} domains",
        "",
        f"Made by `hrkd prepare`. Columns: {columns}, all strings. `{DATASET.manifest}` holds the counts, the sources",
        "and the rows that were left out.",
        "",
        f"| domain | {' | '.join(SPLITS)} | labels |",
        f"| --- | {' | '.join('---:' for _ in SPLITS)} | --- |",
        *(_row(name, counts) for name, counts in domains.items()),
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        'data = load_dataset("path/to/this/folder")',
        "```",
        "",
    ]
    return "\n".join([*header, *body])


def _row(name: str, counts: DomainCounts) -> str:
    cells = [name, *(str(getattr(counts, split)) for split in SPLITS), ", ".join(counts.labels)]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
