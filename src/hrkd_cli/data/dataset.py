"""Labelled text of several domains, in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hrkd_cli.data.sources.records import Example
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


def rows_from_examples(examples: Sequence[Example], *, pair: bool) -> Rows:
    """Turn examples into columns."""
    return Rows(
        texts=[example.text for example in examples],
        pairs=[example.text_pair or "" for example in examples] if pair else None,
        labels=[example.label for example in examples],
    )


def make_dataset(rows: Mapping[str, Mapping[str, Rows]], *, pair: bool, path: Path | None) -> Dataset:
    """Make a dataset whose domains, labels and splits are in their fixed order, with its fingerprint."""
    ordered = {name: {split: rows[name][split] for split in SPLITS if split in rows[name]} for name in sorted(rows)}
    labels = {
        name: tuple(sorted({label for part in parts.values() for label in part.labels}))
        for name, parts in ordered.items()
    }
    return Dataset(labels=labels, pair=pair, fingerprint=_fingerprint(ordered), path=path, rows=ordered)


def fingerprint_lines(
    domain: str, split: str, texts: Iterable[str], pairs: Iterable[str] | None, labels: Iterable[str]
) -> Iterator[bytes]:
    """Yield what the fingerprint is taken over, a line a row: ``json.dumps([domain, split, label, text, pair])``."""
    # Put together from its parts, which takes a third of the time.
    quoted = json.encoder.encode_basestring_ascii
    start = f"[{quoted(domain)}, {quoted(split)}, "
    if pairs is None:
        for label, text in zip(labels, texts, strict=True):
            yield f"{start}{quoted(label)}, {quoted(text)}, null]\n".encode()
    else:
        for label, text, pair in zip(labels, texts, pairs, strict=True):
            yield f"{start}{quoted(label)}, {quoted(text)}, {quoted(pair)}]\n".encode()


def _fingerprint(rows: Mapping[str, Mapping[str, Rows]]) -> str:
    digest = hashlib.sha256()
    for domain, parts in rows.items():
        for split, part in parts.items():
            for line in fingerprint_lines(domain, split, part.texts, part.pairs, part.labels):
                digest.update(line)
    return digest.hexdigest()
