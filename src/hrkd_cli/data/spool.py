"""Usable rows on disk while their splits are decided: texts in an Arrow file a piece, and numbers for the cut.

A piece's rows lie domain by domain, so that what a domain needs can be read without the rest.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
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
    others: dict[str, None] = {}
    numbers = []
    columns = ["row", "text", *(["text_pair"] if pair else []), "label"]
    schema = pa.schema([(name, pa.int64() if name == "row" else pa.string()) for name in columns])
    options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
    with (
        pa.OSFile(str(stem.with_suffix(".arrow")), "wb") as file,
        pa.ipc.new_file(file, schema, options=options) as out,
    ):
        for slab in _slabs(rows, wanted, result, others):
            numbers.append(slab.numbers())
            for domain, batch in slab.batches(schema, first=result.rows):
                out.write_batch(batch)
                result.batches.append(domain)
            result.rows += len(slab.texts)
    np.save(stem.with_suffix(".npy"), np.concatenate(numbers) if numbers else np.empty(0, NUMBERS), allow_pickle=False)
    result.others = list(others)
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


class _Slab:
    """Rows that are held."""

    def __init__(self, domains: dict[str, int], labels: dict[str, int]) -> None:
        self._domains, self._labels = domains, labels
        self._keys = bytearray()
        self._lines: list[int] = []
        self._domain: list[int] = []
        self._label: list[int] = []
        self._split: list[int] = []
        self._pairs: list[str] = []
        self._label_names: list[str] = []
        self.texts: list[str] = []
        self.characters = 0

    def add(self, row: Usable) -> None:
        """Hold a row."""
        line, text, pair, label, domain, split = row
        key = normalise(text)
        digest = blake2b(key.encode(), digest_size=16).digest()
        self._keys += digest
        if pair is None:
            self._keys += digest
        else:
            # No normalised text has a line break.
            self._keys += blake2b(f"{key}\n{normalise(pair)}".encode(), digest_size=16).digest()
            self._pairs.append(pair)
            self.characters += len(pair)
        self._lines.append(line)
        self._domain.append(self._domains.setdefault(domain, len(self._domains)))
        self._label.append(self._labels.setdefault(label, len(self._labels)))
        self._split.append(_SPLIT_NUMBERS[split])
        self._label_names.append(label)
        self.texts.append(text)
        self.characters += len(text)

    def numbers(self) -> NDArray[np.void]:
        """Return the rows' numbers."""
        numbers = np.empty(len(self.texts), NUMBERS)
        keys = np.frombuffer(self._keys, dtype="<u8").reshape(-1, 4)
        numbers["text"], numbers["whole"] = keys[:, :2], keys[:, 2:]
        numbers["domain"], numbers["label"] = self._domain, self._label
        numbers["split"], numbers["line"] = self._split, self._lines
        return numbers

    def batches(self, schema: Any, *, first: int) -> Iterator[tuple[int, Any]]:
        """Yield the rows of each domain."""
        import pyarrow as pa

        domain = np.asarray(self._domain)
        order = np.argsort(domain, kind="stable")
        columns: list[Any] = [self.texts, self._label_names]
        if "text_pair" in schema.names:
            columns.insert(1, self._pairs)
        arrays = [pa.array(column, pa.string()) for column in columns]
        for rows in np.split(order, np.flatnonzero(np.diff(domain[order])) + 1):
            taken = [array.take(pa.array(rows)) for array in arrays]
            yield int(domain[rows[0]]), pa.record_batch([pa.array(rows + first), *taken], schema=schema)


def _slabs(
    rows: Iterable[Usable], wanted: Collection[str] | None, result: Spooled, others: dict[str, None]
) -> Iterator[_Slab]:
    domains: dict[str, int] = {}
    labels: dict[str, int] = {}
    slab = _Slab(domains, labels)
    for row in rows:
        if wanted is not None and row[4] not in wanted:
            others[row[4]] = None
            result.others_rows += 1
            continue
        slab.add(row)
        if len(slab.texts) >= _MOST_ROWS or slab.characters >= _MOST_CHARACTERS:
            yield slab
            slab = _Slab(domains, labels)
    if slab.texts:
        yield slab
    result.domains, result.labels = list(domains), list(labels)
