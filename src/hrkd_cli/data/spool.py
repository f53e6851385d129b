"""Usable rows on disk while their splits are decided: texts in an Arrow file a piece, and numbers for the cut.

A piece's rows lie domain by domain, so that what a domain needs can be read without the rest.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrkd_cli.data.sources.rows import Usable
from hrkd_cli.data.splitting import NO_SPLIT, normalise
from hrkd_cli.layout import SPLITS

# Rows, or characters of text, that are held before they are written.
_MOST_ROWS = 1 << 16
_MOST_CHARACTERS = 8 << 20
_SPLIT_NUMBERS: dict[str | None, int] = {None: NO_SPLIT, **{name: number for number, name in enumerate(SPLITS)}}

NUMBERS = np.dtype(
    [
        ("text", "<u8", 2),
        ("whole", "<u8", 2),
        ("domain", "<i4"),
        ("label", "<i4"),
        ("split", "i1"),
        ("line", "<i8"),
    ]
)
"""By row: keys of its first text and of the whole row, its domain and label (places in the piece's own lists of
names), the split that the source gives or NO_SPLIT, its line."""


@dataclass(slots=True)
class Spooled:
    """What was put on disk of a piece.

    Attributes:
        rows: number of rows.
        domains: names of the domains, by number.
        labels: names of the labels, by number.
        batches: number of the domain of each batch of the Arrow file.
        others: domains that were left out.
        others_rows: number of their rows.
    """

    rows: int = 0
    domains: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    others_rows: int = 0


def spool_rows(rows: Iterable[Usable], stem: Path, *, pair: bool, wanted: Collection[str] | None) -> Spooled:
    """Write rows.

    Args:
        rows: rows that can be used.
        stem: path of the files without their suffix.
        pair: whether they have two texts.
        wanted: the domains to keep; None keeps all.
    """
    import pyarrow as pa

    result = Spooled()
    domains: dict[str, int] = {}
    labels: dict[str, int] = {}
    numbers = []
    columns = ["row", "text", *(["text_pair"] if pair else []), "label"]
    schema = pa.schema([(name, pa.int64() if name == "row" else pa.string()) for name in columns])
    options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
    with (
        pa.OSFile(str(stem.with_suffix(".arrow")), "wb") as file,
        pa.ipc.new_file(file, schema, options=options) as out,
    ):
        for slab in _slabs(rows, wanted, result):
            numbers.append(slab.numbers(domains, labels, pair=pair))
            for domain, batch in slab.batches(schema, numbers[-1]["domain"], first=result.rows):
                out.write_batch(batch)
                result.batches.append(domain)
            result.rows += len(slab.lines)
    np.save(stem.with_suffix(".npy"), np.concatenate(numbers) if numbers else np.empty(0, NUMBERS), allow_pickle=False)
    result.domains, result.labels = list(domains), list(labels)
    return result


def read_batches(stem: str, batches: Iterable[int]) -> Iterator[Any]:
    """Yield batches of a piece, with columns ``row`` (the row's place in the piece), texts and ``label``."""
    import pyarrow as pa

    # Read and not mapped: mapped pages would stay in memory as long as there is any to spare.
    with pa.OSFile(f"{stem}.arrow") as file:
        reader = pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(use_threads=False))
        for number in batches:
            yield reader.get_batch(number)


def load_numbers(stem: str) -> NDArray[np.void]:
    """Return a piece's numbers, of type NUMBERS, and remove them from disk."""
    path = Path(f"{stem}.npy")
    numbers: NDArray[np.void] = np.load(path, allow_pickle=False)
    path.unlink()
    return numbers


@dataclass(slots=True)
class _Slab:
    """Rows that are held, column by column."""

    lines: Sequence[int]
    texts: Sequence[str]
    pairs: Sequence[str | None]
    labels: Sequence[str]
    domains: Sequence[str]
    splits: Sequence[str | None]

    def numbers(self, domains: dict[str, int], labels: dict[str, int], *, pair: bool) -> NDArray[np.void]:
        """Return the rows' numbers, numbering the names that are new."""
        for known, names in ((domains, self.domains), (labels, self.labels)):
            for name in dict.fromkeys(names):
                known.setdefault(name, len(known))
        numbers = np.empty(len(self.lines), NUMBERS)
        keys = [normalise(text) for text in self.texts]
        numbers["text"] = numbers["whole"] = _digests(keys)
        if pair:
            # No normalised text has a line break.
            both = zip(keys, self.pairs, strict=True)
            numbers["whole"] = _digests([f"{key}\n{normalise(second or '')}" for key, second in both])
        numbers["domain"] = [domains[name] for name in self.domains]
        numbers["label"] = [labels[name] for name in self.labels]
        numbers["split"] = [_SPLIT_NUMBERS[name] for name in self.splits]
        numbers["line"] = self.lines
        return numbers

    def batches(self, schema: Any, domain: NDArray[np.int32], *, first: int) -> Iterator[tuple[int, Any]]:
        """Yield the number and the rows of each domain.

        Args:
            schema: of the rows.
            domain: number of each row's domain.
            first: number of the first row in the piece.
        """
        import pyarrow as pa

        columns = {"text": self.texts, "text_pair": self.pairs, "label": self.labels}
        arrays = [pa.array(columns[name], pa.string()) for name in schema.names if name != "row"]
        order = np.argsort(domain, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(domain[order])) + 1):
            taken = [array.take(pa.array(rows)) for array in arrays]
            yield int(domain[rows[0]]), pa.record_batch([pa.array(rows + first), *taken], schema=schema)


def _digests(keys: Iterable[str]) -> NDArray[np.uint64]:
    digests = b"".join([blake2b(key.encode(), digest_size=16).digest() for key in keys])
    return np.frombuffer(digests, dtype="<u8").reshape(-1, 2)


def _slabs(rows: Iterable[Usable], wanted: Collection[str] | None, result: Spooled) -> Iterator[_Slab]:
    held: list[Usable] = []
    characters = 0
    others: dict[str, None] = {}
    for row in rows:
        if wanted is not None and row[4] not in wanted:
            others[row[4]] = None
            result.others_rows += 1
            continue
        held.append(row)
        characters += len(row[1]) + len(row[2] or "")
        if len(held) >= _MOST_ROWS or characters >= _MOST_CHARACTERS:
            yield _Slab(*zip(*held, strict=True))
            held, characters = [], 0
    if held:
        yield _Slab(*zip(*held, strict=True))
    result.others = list(others)
