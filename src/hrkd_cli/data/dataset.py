"""Labelled text of several domains, in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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

    def split(self, domain: str, split: str) -> Rows:
        """Return the rows of one domain and split (``all`` joins the splits); no rows where there are none."""
        parts = [self.rows[domain][s] for s in SPLITS if s in self.rows[domain] and split in (s, "all")]
        return Rows(
            texts=[t for part in parts for t in part.texts],
            pairs=[p for part in parts for p in part.pairs or ()] if self.pair else None,
            labels=[n for part in parts for n in part.labels],
        )
