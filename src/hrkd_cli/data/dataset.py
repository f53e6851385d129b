"""Labelled text of several domains, in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hrkd_cli.layout import SPLITS


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


class Fingerprint:
    """sha256 over rows, domain by domain and split by split; it does not depend on how they are divided into tables."""

    def __init__(self) -> None:
        self._whole = hashlib.sha256()
        self._part: tuple[str, str] | None = None
        self._columns: dict[str, Any] = {}

    def add(self, domain: str, split: str, rows: Any) -> None:
        """Add rows.

        Args:
            domain: their domain.
            split: their split; the rows of a domain and split are added one table after the other.
            rows: Arrow table whose columns are all texts.
        """
        if (domain, split) != self._part:
            self._close()
            self._part = domain, split
            self._columns = {name: (hashlib.sha256(), hashlib.sha256()) for name in rows.column_names}
        for name, (lengths, texts) in self._columns.items():
            for chunk in rows.column(name).chunks:
                offsets = np.frombuffer(chunk.buffers()[1], "<i4")[chunk.offset : chunk.offset + len(chunk) + 1]
                lengths.update(np.diff(offsets).tobytes())
                texts.update(memoryview(chunk.buffers()[2] or b"")[offsets[0] : offsets[-1]])

    def hexdigest(self) -> str:
        """Return the fingerprint of all rows."""
        self._close()
        return self._whole.hexdigest()

    def _close(self) -> None:
        if self._part is not None:
            columns = {name: [digest.hexdigest() for digest in both] for name, both in sorted(self._columns.items())}
            self._whole.update(json.dumps([*self._part, columns]).encode())
            self._part = None


def fingerprint_of(rows: Mapping[str, Mapping[str, Rows]]) -> str:
    """Return the fingerprint of rows by domain and split."""
    import pyarrow as pa

    found = Fingerprint()
    for domain, parts in rows.items():
        for split, part in parts.items():
            columns = {"text": part.texts, "text_pair": part.pairs, "label": part.labels}
            arrays = {name: pa.array(values, pa.string()) for name, values in columns.items() if values}
            found.add(domain, split, pa.table(arrays))
    return found.hexdigest()
