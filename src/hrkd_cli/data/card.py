"""The prepared folder's README.md: a dataset card from which ``datasets.load_dataset`` reads the splits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from hrkd_cli.cards import render_card
from hrkd_cli.data.manifest import DomainCounts
from hrkd_cli.layout import DATASET, SPLITS


def dataset_card(domains: Mapping[str, DomainCounts], *, pair: bool) -> str:
    """Return the card.

    Args:
        domains: counts by domain.
        pair: whether rows have two texts.
    """
    from huggingface_hub import DatasetCardData

    there = [split for split in SPLITS if any(getattr(counts, split) for counts in domains.values())]
    files = [{"split": split, "path": f"{DATASET.data}/*/{split}.parquet"} for split in there]
    return render_card(
        "dataset.md.j2",
        DatasetCardData(
            task_categories=["text-classification"], configs=[{"config_name": "default", "data_files": files}]
        ),
        domains={name: asdict(counts) for name, counts in domains.items()},
        columns=["text", "text_pair", "label", "domain"] if pair else ["text", "label", "domain"],
        splits=SPLITS,
        manifest=DATASET.manifest,
    )
