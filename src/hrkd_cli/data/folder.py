"""The second pass: what was put on disk becomes the prepared folder's files."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hrkd_cli.data.card import dataset_card
from hrkd_cli.data.crew import Crew, Job
from hrkd_cli.data.index import Index
from hrkd_cli.data.manifest import DomainCounts
from hrkd_cli.data.splitting import Places
from hrkd_cli.events import OnEvent, Progress
from hrkd_cli.layout import DATASET, SPLITS

_BLOCK = 1 << 20


def write_splits(
    work: Path,
    index: Index,
    places: Places,
    domains: Mapping[str, DomainCounts],
    *,
    crew: Crew,
    on_event: OnEvent,
) -> str:
    """Write a Parquet file a domain and split, and remove what the first pass put on disk.

    Args:
        work: the folder to write into.
        index: all rows.
        places: where they go.
        domains: counts of the rows that go somewhere, by domain, sorted by name.
        crew: who writes.
        on_event: told of rows written.

    Returns:
        The dataset's fingerprint.
    """
    spool = work / DATASET.spool
    np.save(spool / "places.npy", places, allow_pickle=False)
    for name in domains:
        (work / DATASET.data / name).mkdir(parents=True)
    digest = hashlib.sha256()
    done, total = 0, sum(getattr(counts, split) for counts in domains.values() for split in SPLITS)
    # Answers come in the order of the jobs, which is that of the fingerprint.
    for job, rows in crew.map("write", _jobs(work, index, domains)):
        lines = Path(job["lines"])
        with lines.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
        lines.unlink()
        done += rows
        on_event(Progress("writing rows", done, total))
    shutil.rmtree(spool)
    return digest.hexdigest()


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


def _jobs(work: Path, index: Index, domains: Mapping[str, DomainCounts]) -> Iterator[Job]:
    for name, counts in domains.items():
        number = index.domains.index(name)
        for place, split in enumerate(SPLITS):
            if getattr(counts, split):
                yield {
                    "domain": name,
                    "split": split,
                    "place": place,
                    "places": str(work / DATASET.spool / "places.npy"),
                    "pieces": index.pieces(number),
                    "pair": index.pair,
                    "out": str(work / DATASET.data / name / f"{split}.parquet"),
                    "lines": str(work / DATASET.spool / f"{number}-{split}.lines"),
                }
