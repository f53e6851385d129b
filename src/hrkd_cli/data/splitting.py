"""Who goes where: duplicates out, texts of one split out of the others, what is missing cut from train.

Pure and seeded, on numbers that stand for the rows: a dataset of millions fits as numbers where its texts would not.
Equal texts are equal after ``normalise``. A *group* is all rows with the same first text, of whatever domain: a group
never lies on two sides of a cut, so that no model is tested on a text that it was trained on.
"""

from __future__ import annotations

import random
import unicodedata
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, nan

import numpy as np
from numpy.typing import NDArray

from hrkd_cli.data.cutting import Cutter
from hrkd_cli.data.sources.records import Reason
from hrkd_cli.layout import SPLITS

TRAIN, DEV, TEST = range(len(SPLITS))
NO_SPLIT = -1
_IN_TEST, _IN_DEV, _DUPLICATE, _CONFLICT, _NOT_OF_THE_FEW = range(3, 8)
REASONS = {
    _IN_TEST: Reason.IN_TEST,
    _IN_DEV: Reason.IN_DEV,
    _DUPLICATE: Reason.DUPLICATE,
    _CONFLICT: Reason.CONFLICT,
}
"""Why a row is in no split, by its place in what ``split_rows`` returns."""
# Rows whose strata are turned into Python's numbers at a time.
_BLOCK = 1 << 18

Ints = NDArray[np.int32]
Places = NDArray[np.int8]
"""By row, where it goes: TRAIN, DEV, TEST, or a number above these when it goes nowhere."""


@dataclass(frozen=True, slots=True)
class Keys:
    """What the cut looks at, by row, in the order in which the rows were read.

    Attributes:
        text: (N) numbers, equal for equal first texts.
        whole: (N) numbers, equal for equal rows: both texts, where there are two.
        domain: (N) numbers of the domains.
        label: (N) numbers of the label names.
        split: (N) the split that the source gives, or NO_SPLIT.
    """

    text: Ints
    whole: Ints
    domain: Ints
    label: Ints
    split: Places


def normalise(text: str) -> str:
    """Return a text without differences of case, width, ligatures and white space."""
    if text.isascii():
        return " ".join(text.lower().split())
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def number(high: NDArray[np.uint64], low: NDArray[np.uint64]) -> Ints:
    """Number rows so that equal 128-bit keys, given as two halves, have equal numbers from 0."""
    order = np.argsort(high)
    same = high[order[1:]] == high[order[:-1]]
    new = np.concatenate(([len(order) > 0], ~same))
    if np.any(same & (low[order[1:]] != low[order[:-1]])):
        # Half a key is enough to sort by, until two of the other halves differ.
        order = np.lexsort((low, high))
        new[1:] = (high[order[1:]] != high[order[:-1]]) | (low[order[1:]] != low[order[:-1]])
    numbers = np.empty(len(order), dtype=np.int32)
    numbers[order] = np.cumsum(new, dtype=np.int32) - 1
    return numbers


def split_rows(keys: Keys, *, dev: float, test: float, dedupe: bool, seed: int) -> Places:
    """Give every row a split, or the reason why it has none.

    Splits that the source gives are kept, domain by domain; a domain that has no dev (or test) split gets one cut from
    its train rows. Rows without a split of their own are train rows.

    Args:
        keys: rows of all domains.
        dev: share of a domain's rows (of its train rows, where a split is given) that becomes dev.
        test: the same for test.
        dedupe: drop rows that repeat another of their domain.
        seed: of the cuts.
    """
    places = np.where(keys.split == NO_SPLIT, TRAIN, keys.split).astype(np.int8)
    _drop_leaks(keys, places)
    if dedupe:
        _drop_repeats(keys, places)
    _cut(keys, places, dev=dev, test=test, seed=seed)
    return places


def keep_few(
    keys: Keys, places: Places, fraction: float, seed: int, *, domains: Sequence[str], labels: Sequence[str]
) -> None:
    """Keep a fraction of the train rows of each (domain, label), at least one row of each, and take the others out.

    The rows kept at a smaller fraction are among those kept at a larger one.

    Args:
        keys: rows of all domains.
        places: where they go; changed in place.
        fraction: above 0, at most 1.
        seed: of the choice.
        domains: names of the domains, by number.
        labels: names of the labels, by number.
    """
    train = np.flatnonzero(places == TRAIN)
    strata = keys.domain[train].astype(np.int64) * len(labels) + keys.label[train]
    order = np.argsort(strata, kind="stable")
    for rows in np.split(train[order], _starts(strata[order])[1:]):
        if not len(rows):
            continue
        domain, label = domains[keys.domain[rows[0]]], labels[keys.label[rows[0]]]
        shuffled = array("q", rows.astype(np.int64).tobytes())
        random.Random(f"{seed}/few-shot/{domain}/{label}").shuffle(shuffled)
        kept = max(1, int(len(rows) * fraction + 0.5))
        places[np.asarray(shuffled[kept:], dtype=np.int64)] = _NOT_OF_THE_FEW


def _drop_leaks(keys: Keys, places: Places) -> None:
    """Take texts of given test splits out of train and dev, and those of given dev splits out of train."""
    texts = int(keys.text.max(initial=-1)) + 1
    for held, reason, safe in ((DEV, _IN_DEV, (DEV, TEST)), (TEST, _IN_TEST, (TEST,))):
        is_held = np.zeros(texts, dtype=bool)
        is_held[keys.text[keys.split == held]] = True
        # Test comes second: of a text that is in both, test is the reason.
        places[is_held[keys.text] & ~np.isin(keys.split, safe)] = reason


def _drop_repeats(keys: Keys, places: Places) -> None:
    """Keep the first of the rows of a domain that have equal texts."""
    kept = np.flatnonzero(places <= TEST)
    times = np.bincount(keys.whole[kept])
    several = kept[times[keys.whole[kept]] > 1]
    # Stable: within a run of equal rows the first that was read comes first.
    rows = several[np.lexsort((keys.domain[several], keys.whole[several]))]
    new = np.ones(len(rows), dtype=bool)
    new[1:] = (keys.whole[rows[1:]] != keys.whole[rows[:-1]]) | (keys.domain[rows[1:]] != keys.domain[rows[:-1]])
    first = rows[np.maximum.accumulate(np.where(new, np.arange(len(rows)), 0))]
    agrees = keys.label[rows] == keys.label[first]
    places[rows[~new & agrees]] = _DUPLICATE
    places[rows[~new & ~agrees]] = _CONFLICT


def _cut(keys: Keys, places: Places, *, dev: float, test: float, seed: int) -> None:
    """Cut from train what a domain lacks."""
    rows = np.flatnonzero(places == TRAIN).astype(np.int32)
    if not len(rows):
        return
    # Rows group by group, each from its start for as long as its size.
    rows = rows[np.argsort(keys.text[rows], kind="stable")]
    starts = _starts(keys.text[rows]).astype(np.int32)
    sizes = np.diff(starts, append=np.int32(len(rows)))
    # Groups in the order in which their texts are first met, then in a random one.
    group_of_first = np.full(len(places), -1, dtype=np.int32)
    group_of_first[rows[starts]] = np.arange(len(starts), dtype=np.int32)
    groups = array("i", group_of_first[group_of_first >= 0].tobytes())
    del group_of_first
    random.Random(seed).shuffle(groups)
    shuffled = np.frombuffer(groups, dtype=np.int32)
    strata, shares = _strata(keys, places, rows, dev=dev, test=test)
    cutter = Cutter(shares)
    chosen = np.empty(len(rows), dtype=np.int8)
    # Larger groups first: the single rows that follow even out what they have put out of balance.
    large = shuffled[sizes[shuffled] > 1]
    large = large[np.argsort(-sizes[large], kind="stable")]
    for start, size in zip(starts[large].tolist(), sizes[large].tolist(), strict=True):
        counts: dict[int, int] = {}
        for stratum in strata[start : start + size].tolist():
            counts[stratum] = counts.get(stratum, 0) + 1
        chosen[start : start + size] = cutter.place(counts.items())
    singles = starts[shuffled[sizes[shuffled] == 1]]
    for first in range(0, len(singles), _BLOCK):
        block = singles[first : first + _BLOCK]
        chosen[block] = np.frombuffer(cutter.place_singles(strata[block].tolist()), dtype=np.int8)
    places[rows] = chosen


def _strata(
    keys: Keys, places: Places, rows: Ints, *, dev: float, test: float
) -> tuple[Ints, list[tuple[float, float, float]]]:
    """Return the stratum of each of the rows that are cut, and the shares of each stratum."""
    labels = int(keys.label.max()) + 1
    cells = keys.domain[rows].astype(np.int64) * labels + keys.label[rows]
    is_found = np.zeros(int(cells.max()) + 1, dtype=bool)
    is_found[cells] = True
    found = np.flatnonzero(is_found)
    strata = np.searchsorted(found, cells).astype(np.int32)
    kept = places <= TEST
    shares = []
    given = {split: set(np.unique(keys.domain[kept & (keys.split == split)]).tolist()) for split in (DEV, TEST)}
    for domain in (found // labels).tolist():
        wanted = [share if share and domain not in given[split] else nan for split, share in ((DEV, dev), (TEST, test))]
        left = 1 - sum(share for share in wanted if not isnan(share))
        shares.append((left, wanted[0], wanted[1]))
    return strata, shares


def _starts(values: NDArray[np.generic]) -> NDArray[np.int64]:
    """Return where each run of equal values starts."""
    return np.flatnonzero(np.concatenate(([len(values) > 0], values[1:] != values[:-1])))
