"""Labeled texts of several domains, in memory."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hrkd_cli.layout import SPLITS
from hrkd_cli.predict.name_validation import validate_names

ROW_GROUP_SIZE = 1 << 16  # rows of a Parquet row group; also the rows that enter the fingerprint together


@dataclass(frozen=True, slots=True)
class TextRows:
    """Rows of one domain and split, column by column.

    Attributes:
        texts: first texts.
        pairs: second texts, or None for single-text tasks.
        labels: label names.
        locations: where each row was in the source (``file:line``); empty if unknown or not read.
    """

    texts: list[str]
    pairs: list[str] | None
    labels: list[str]
    locations: list[str] = field(default_factory=list, compare=False)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.texts)


@dataclass(frozen=True, slots=True)
class Dataset:
    """A multi-domain dataset.

    Attributes:
        labels: label names by domain; domains and labels are sorted by name.
        has_pairs: whether a row has two texts.
        fingerprint: sha256 over domains, labels and all rows; equal data has an equal fingerprint.
        path: the prepared folder it was read from; None for raw data held in memory.
        rows: rows by domain and split. A domain may lack a split.

    Raises:
        DataError: a name of a domain or label is not allowed.
    """

    labels: dict[str, tuple[str, ...]]
    has_pairs: bool
    fingerprint: str
    path: Path | None
    rows: dict[str, dict[str, TextRows]]

    def __post_init__(self) -> None:
        validate_names(self.labels, {label for names in self.labels.values() for label in names}, self.path or "data")

    @classmethod
    def from_rows(
        cls, rows: Mapping[str, Mapping[str, TextRows]], *, has_pairs: bool, path: Path | None = None
    ) -> Dataset:
        """Create a dataset from rows by domain and split: sort domains and labels, compute the fingerprint."""
        ordered: dict[str, dict[str, TextRows]] = {}
        labels: dict[str, tuple[str, ...]] = {}
        for domain in sorted(rows):
            ordered[domain] = {split: rows[domain][split] for split in SPLITS if split in rows[domain]}
            labels[domain] = tuple(sorted({label for part in ordered[domain].values() for label in part.labels}))
        return cls(labels, has_pairs, compute_fingerprint(ordered), path, ordered)

    @property
    def domains(self) -> tuple[str, ...]:
        """Domain names, sorted."""
        return tuple(self.labels)

    def select_domains(self, *domains: str) -> Dataset:
        """Return a dataset with only these domains; it keeps the fingerprint and path of the whole dataset."""
        selected = [domain for domain in self.domains if domain in domains]
        return replace(self, labels={d: self.labels[d] for d in selected}, rows={d: self.rows[d] for d in selected})

    def with_labels(self, labels: Mapping[str, tuple[str, ...]]) -> Dataset:
        """Return a dataset with these labels by domain; domains that it does not have yet are added without rows."""
        merged = {**self.labels, **labels}
        ordered = sorted(merged)
        return replace(self, labels={d: merged[d] for d in ordered}, rows={d: self.rows.get(d, {}) for d in ordered})

    @property
    def new_domains(self) -> tuple[str, ...]:
        """Domains without rows."""
        return tuple(domain for domain, splits in self.rows.items() if not splits)

    @property
    def without_new_domains(self) -> Dataset:
        """The dataset without the domains that have no rows."""
        return self.select_domains(*(set(self.domains) - set(self.new_domains)))

    def split(self, domain: str, split: str) -> TextRows:
        """Return the rows of one domain and split (``all`` joins the splits), which may be empty."""
        parts = [self.rows[domain][s] for s in SPLITS if s in self.rows[domain] and split in (s, "all")]
        return TextRows(
            texts=[text for part in parts for text in part.texts],
            pairs=[pair for part in parts for pair in part.pairs or ()] if self.has_pairs else None,
            labels=[label for part in parts for label in part.labels],
            locations=[location for part in parts for location in part.locations],
        )

    def count(self, split: str) -> int:
        """Return the number of rows of a split, over all domains."""
        return sum(len(self.split(domain, split)) for domain in self.domains)


def sample_rows(count: int, share: float) -> list[int]:
    """Return the indices of a random share of ``count`` rows, at most all, in order; the same ones in every call.

    Evenly spaced rows of a source whose labels alternate could all have the same label.
    """
    return sorted(random.Random(0).sample(range(count), min(count, math.ceil(share * count))))


def compute_fingerprint(rows: Mapping[str, Mapping[str, TextRows]]) -> str:
    """Return the sha256 over rows by domain and split, in groups of ``ROW_GROUP_SIZE``."""
    digest = hashlib.sha256()
    for domain, splits in rows.items():
        for split, part in splits.items():
            columns = {"text": part.texts, "text_pair": part.pairs, "label": part.labels}
            for first in range(0, len(part), ROW_GROUP_SIZE):
                group = {name: values[first : first + ROW_GROUP_SIZE] for name, values in columns.items() if values}
                update_fingerprint(digest, domain, split, group)
    return digest.hexdigest()


def update_fingerprint(digest: Any, domain: str, split: str, columns: Mapping[str, Sequence[str]]) -> None:
    """Add a group of up to ``ROW_GROUP_SIZE`` rows, column by column, to a dataset's sha256."""
    digest.update(json.dumps([domain, split, columns], ensure_ascii=False).encode())
