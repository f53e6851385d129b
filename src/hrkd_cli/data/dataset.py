"""Labelled text of several domains, in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hrkd_cli.layout import SPLITS

GROUP_ROWS = 1 << 16
"""Rows of a Parquet row group, which are read, written and hashed together."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one domain and split, column by column.

    Attributes:
        texts: first texts.
        pairs: second texts, or None when the task has a single text.
        labels: label names.
    """

    texts: list[str]
    pairs: list[str] | None
    labels: list[str]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.texts)


@dataclass(frozen=True, slots=True)
class Dataset:
    """A multi-domain dataset.

    Attributes:
        labels: label names by domain; domains and labels are sorted by name.
        pair: whether a row has two texts.
        fingerprint: sha256 over domains, labels and every row; equal data has an equal fingerprint.
        path: the prepared folder it was read from; None for raw data held in memory.
        rows: rows by domain and split. A domain may lack a split.
    """

    labels: dict[str, tuple[str, ...]]
    pair: bool
    fingerprint: str
    path: Path | None
    rows: dict[str, dict[str, Rows]]

    @property
    def domains(self) -> tuple[str, ...]:
        """Domain names, sorted."""
        return tuple(self.labels)

    def only(self, *domains: str) -> Dataset:
        """Return the rows of some domains alone; they keep the fingerprint and the path of the whole."""
        kept = [domain for domain in self.domains if domain in domains]
        return replace(self, labels={d: self.labels[d] for d in kept}, rows={d: self.rows[d] for d in kept})

    def split(self, domain: str, split: str) -> Rows:
        """Return the rows of one domain and split (``all`` joins the splits); no rows where there are none."""
        parts = [self.rows[domain][s] for s in SPLITS if s in self.rows[domain] and split in (s, "all")]
        return Rows(
            texts=[t for part in parts for t in part.texts],
            pairs=[p for part in parts for p in part.pairs or ()] if self.pair else None,
            labels=[n for part in parts for n in part.labels],
        )


def make_dataset(rows: Mapping[str, Mapping[str, Rows]], *, pair: bool, path: Path | None) -> Dataset:
    """Make a dataset whose domains, labels and splits are in their fixed order, with its fingerprint."""
    ordered = {name: {split: rows[name][split] for split in SPLITS if split in rows[name]} for name in sorted(rows)}
    labels = {
        name: tuple(sorted({label for part in parts.values() for label in part.labels}))
        for name, parts in ordered.items()
    }
    return Dataset(labels=labels, pair=pair, fingerprint=fingerprint_of(ordered), path=path, rows=ordered)


def add_rows(digest: Any, domain: str, split: str, columns: Mapping[str, Sequence[str]]) -> None:
    """Add up to ``GROUP_ROWS`` rows of a domain and split to a dataset's fingerprint, column by column."""
    digest.update(json.dumps([domain, split, columns], ensure_ascii=False).encode())


def fingerprint_of(rows: Mapping[str, Mapping[str, Rows]]) -> str:
    """Return the sha256 over rows by domain and split, in groups of ``GROUP_ROWS``."""
    digest = hashlib.sha256()
    for domain, parts in rows.items():
        for split, part in parts.items():
            columns = {"text": part.texts, "text_pair": part.pairs, "label": part.labels}
            for first in range(0, len(part), GROUP_ROWS):
                group = {name: values[first : first + GROUP_ROWS] for name, values in columns.items() if values}
                add_rows(digest, domain, split, group)
    return digest.hexdigest()
