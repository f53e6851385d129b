"""The rules of splitting written plainly, a row an object: what the product does on arrays must come to the same."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hrkd_cli.data.sources.records import Dropped, Example, Reason
from hrkd_cli.data.splitting import normalise
from hrkd_cli.layout import SPLITS

# A sum of shares is not exact; what differs by less is a tie.
_TIE = 1e-9


@dataclass(frozen=True, slots=True)
class Splits:
    """Rows by domain and split, in the order in which they were read, and what was left out."""

    rows: dict[str, dict[str, list[Example]]]
    dropped: list[Dropped]


@dataclass(frozen=True, slots=True)
class _Keyed:
    """A row, and numbers that are equal for equal texts."""

    row: Example
    text: int
    pair: int


def split_examples(examples: Iterable[Example], *, dev: float, test: float, dedupe: bool, seed: int) -> Splits:
    """Give every example a split.

    Splits that the source gives are kept, domain by domain; a domain that has no dev (or test) split gets one cut from
    its train rows. Rows without a split of their own are train rows.

    Args:
        examples: rows of all domains.
        dev: share of a domain's rows (of its train rows, where a split is given) that becomes dev.
        test: the same for test.
        dedupe: drop rows that repeat another of their domain.
        seed: of the cuts.
    """
    numbers: dict[str, int] = {}

    def number(text: str | None) -> int:
        return -1 if text is None else numbers.setdefault(normalise(text), len(numbers))

    keyed = [_Keyed(row, number(row.text), number(row.text_pair)) for row in examples]
    kept, dropped = _without_leaks(keyed)
    if dedupe:
        kept, repeats = _without_repeats(kept)
        dropped += repeats
    chosen = _cut(kept, dev=dev, test=test, seed=seed)
    rows: dict[str, dict[str, list[Example]]] = {name: {} for name in sorted({item.row.domain for item in kept})}
    for wanted in SPLITS:
        for item, split in zip(kept, chosen, strict=True):
            if split == wanted:
                rows[item.row.domain].setdefault(split, []).append(item.row)
    return Splits(rows, dropped)


def few_shot(rows: Sequence[Example], fraction: float, seed: int) -> list[Example]:
    """Keep a fraction of each (domain, label), at least one row of each.

    The rows kept at a smaller fraction are among those kept at a larger one.
    """
    strata: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        strata[row.domain, row.label].append(place)
    keep: list[int] = []
    for (domain, label), places in strata.items():
        random.Random(f"{seed}/few-shot/{domain}/{label}").shuffle(places)
        keep += places[: max(1, int(len(places) * fraction + 0.5))]
    return [rows[place] for place in sorted(keep)]


def _without_leaks(keyed: Sequence[_Keyed]) -> tuple[list[_Keyed], list[Dropped]]:
    """Take texts of given test splits out of train and dev, and those of given dev splits out of train."""
    held: dict[str, set[int]] = {"test": set(), "dev": set()}
    for item in keyed:
        if item.row.split in held:
            held[item.row.split].add(item.text)
    kept, dropped = [], []
    for item in keyed:
        if item.row.split != "test" and item.text in held["test"]:
            dropped.append(_drop(item.row, Reason.IN_TEST))
        elif item.row.split not in held and item.text in held["dev"]:
            dropped.append(_drop(item.row, Reason.IN_DEV))
        else:
            kept.append(item)
    return kept, dropped


def _without_repeats(keyed: Sequence[_Keyed]) -> tuple[list[_Keyed], list[Dropped]]:
    """Keep the first of the rows of a domain that have equal texts."""
    first: dict[tuple[str, int, int], str] = {}
    kept, dropped = [], []
    for item in keyed:
        key = item.row.domain, item.text, item.pair
        if key not in first:
            first[key] = item.row.label
            kept.append(item)
        else:
            dropped.append(_drop(item.row, Reason.DUPLICATE if first[key] == item.row.label else Reason.CONFLICT))
    return kept, dropped


def _drop(row: Example, reason: Reason) -> Dropped:
    return Dropped(reason, row.domain, row.file, row.line)


def _cut(keyed: Sequence[_Keyed], *, dev: float, test: float, seed: int) -> list[str]:
    """Return the split of each row, cutting from train what a domain lacks."""
    given: dict[str, set[str | None]] = defaultdict(set)
    groups: dict[int, list[int]] = defaultdict(list)
    for place, item in enumerate(keyed):
        given[item.row.domain].add(item.row.split)
        if item.row.split not in ("dev", "test"):
            groups[item.text].append(place)
    shares: dict[str, dict[str, float]] = {}
    for domain, have in given.items():
        wanted = {split: share for split, share in (("dev", dev), ("test", test)) if share and split not in have}
        shares[domain] = {"train": 1 - sum(wanted.values()), **wanted}
    chosen = [item.row.split or "train" for item in keyed]
    cutter = _Cutter(shares)
    order = list(groups.values())
    random.Random(seed).shuffle(order)
    # Larger groups first: the single rows that follow even out what they have put out of balance.
    order.sort(key=len, reverse=True)
    for places in order:
        split = cutter.place([keyed[place].row for place in places])
        for place in places:
            chosen[place] = split
    return chosen


class _Cutter:
    """Gives each group to the split that is furthest behind its share of what has been given out so far.

    "Behind" is counted within the strata (domain, label) of the group's rows, and between equals over everything. So a
    stratum of single rows is never off by more than a row.
    """

    def __init__(self, shares: dict[str, dict[str, float]]) -> None:
        self._shares = shares
        self._behind: dict[tuple[str, str], dict[str, float]] = {}
        self._overall = dict.fromkeys(SPLITS, 0.0)

    def place(self, group: Sequence[Example]) -> str:
        """Choose the split of a group."""
        strata: dict[tuple[str, str], int] = defaultdict(int)
        for row in group:
            strata[row.domain, row.label] += 1
        total = dict.fromkeys(SPLITS, 0.0)
        for (domain, label), count in strata.items():
            behind = self._behind.setdefault((domain, label), dict.fromkeys(SPLITS, 0.0))
            for split, share in self._shares[domain].items():
                behind[split] += share * count
                self._overall[split] += share * count
            for split in SPLITS:
                total[split] += behind[split] * count
        # A text that several domains share can only go where all of them still lack rows.
        allowed = [split for split in SPLITS if all(split in self._shares[domain] for domain, _ in strata)]
        most = max(total[split] for split in allowed)
        ties = [split for split in allowed if total[split] > most - _TIE * len(group)]
        best = max(ties, key=lambda split: self._overall[split])
        for stratum, count in strata.items():
            self._behind[stratum][best] -= count
        self._overall[best] -= len(group)
        return best
