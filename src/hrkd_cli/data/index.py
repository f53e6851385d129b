"""What is held of every row while the splits are decided: a few numbers, and where its texts are."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrkd_cli.data.splitting import Keys, number
from hrkd_cli.data.spool import Spooled, load_numbers


@dataclass(frozen=True, slots=True)
class _Put:
    """A piece on disk.

    Attributes:
        where: the file that it comes from, for messages.
        stem: path of its files without suffix.
        first: number of its first row.
        batches: its batches by domain.
    """

    where: str
    stem: str
    first: int
    batches: dict[int, list[int]]


class Index:
    """All usable rows of a source, in the order in which they were read.

    Attributes:
        rows: number of rows.
        pair: whether they have two texts.
        domains: names of the domains, by number.
        labels: names of the labels, by number.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.pair = False
        self.domains: list[str] = []
        self.labels: list[str] = []
        self._numbers: dict[str, list[NDArray[Any]]] = {}
        self._lines: NDArray[np.int64] | None = None
        self._pieces: list[_Put] = []

    def add(self, spooled: Spooled, stem: str, where: str) -> None:
        """Take in a piece that was put on disk.

        Args:
            spooled: what was put there.
            stem: path of its files without suffix.
            where: the file that it comes from.
        """
        numbers = load_numbers(stem)
        domains, labels = _numbered(self.domains, spooled.domains), _numbered(self.labels, spooled.labels)
        keys = ("text", "whole") if self.pair else ("text",)
        columns = {f"{key}{half}": numbers[key][:, half] for key in keys for half in (0, 1)}
        columns |= {"domain": domains[numbers["domain"]], "label": labels[numbers["label"]]}
        columns |= {"split": numbers["split"], "line": numbers["line"]}
        for name, column in columns.items():
            self._numbers.setdefault(name, []).append(np.ascontiguousarray(column))
        batches: dict[int, list[int]] = {}
        for place, local in enumerate(spooled.batches):
            batches.setdefault(int(domains[local]), []).append(place)
        self._pieces.append(_Put(where, stem, self.rows, batches))
        self.rows += spooled.rows

    def keys(self) -> Keys:
        """Return what the cut looks at. To be called once: what it is made from is given up."""
        text = number(self._take("text0"), self._take("text1"))
        whole = number(self._take("whole0"), self._take("whole1")) if self.pair else text
        self._lines = self._take("line")
        return Keys(text, whole, self._take("domain"), self._take("label"), self._take("split"))

    def place(self, row: int) -> tuple[str, int]:
        """Return file and line of a row; only after ``keys``."""
        assert self._lines is not None
        piece = self._pieces[bisect_right(self._pieces, row, key=lambda piece: piece.first) - 1]
        return piece.where, int(self._lines[row])

    def pieces(self, domain: int) -> list[tuple[str, int, list[int]]]:
        """Return where a domain's rows are: path without suffix, number of the piece's first row, batches."""
        return [(put.stem, put.first, put.batches[domain]) for put in self._pieces if domain in put.batches]

    def _take(self, name: str) -> NDArray[Any]:
        return np.concatenate(self._numbers.pop(name))


def _numbered(known: list[str], names: Iterable[str]) -> NDArray[np.int32]:
    """Return the numbers of names, numbering those that are new."""
    numbers = {name: place for place, name in enumerate(known)}
    found = [numbers.setdefault(name, len(numbers)) for name in names]
    known[:] = numbers
    return np.asarray(found, dtype=np.int32)
