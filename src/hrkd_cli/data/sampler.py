"""Batch sampling over domains of different sizes. Row indices only: no text, no tensors.

A batch has B rows of every domain. An epoch has ceil(max N / B) batches, N being the number of rows of a domain: it has
every row of every domain at least once, and rows of smaller domains more often.

Unlabeled rows come in addition: they are a fixed fraction of a domain's rows in each batch and are shuffled separately.
Batches and epochs are counted in labeled rows only. A domain without labeled rows has B unlabeled rows in every batch.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from operator import itemgetter

_Batch = dict[str, list[int]]
"""Row indices of a batch by stream: ``DOMAIN`` for labeled rows, ``DOMAIN/bare`` for unlabeled ones."""

SORT_WINDOW = 16  # number of batches whose rows are sorted by length together


class ShuffledStream:
    """An endless stream of row indices that is reshuffled for each pass over them.

    The order depends only on the indices, the stream's name, the seed and the number of the pass.
    """

    def __init__(self, name: str, indices: Sequence[int], seed: int) -> None:
        self._name = name
        self._indices = indices
        self._seed = seed
        self._passes = 0
        self._remaining: Iterator[int] = iter(())

    def take(self, count: int) -> list[int]:
        """Return the next ``count`` indices, starting new passes as needed."""
        taken = list(islice(self._remaining, count))
        while len(taken) < count:
            order = list(self._indices)
            # A string seed goes through SHA-512, not hash(): the same order in every process.
            random.Random(f"{self._seed}/{self._name}/{self._passes}").shuffle(order)
            self._passes += 1
            self._remaining = iter(order)
            taken += islice(self._remaining, count - len(taken))
        return taken

    def start_new_pass(self) -> None:
        """Drop the rest of the current pass."""
        self._remaining = iter(())


class DomainBatchSampler:
    """An endless iterator of batches: row indices by domain, with the domains in the given order.

    Batch n depends only on n and the arguments, so a checkpoint needs nothing but n.

    Attributes:
        batches_per_epoch: batches per epoch.
    """

    def __init__(
        self,
        rows: Mapping[str, int],
        *,
        batch_size: int,
        seed: int,
        lengths: Mapping[str, Sequence[int]] | None = None,
        unlabeled: Mapping[str, int] | None = None,
        unlabeled_fraction: float = 0.0,
        held_back: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        """Create a sampler that starts at batch 0.

        Args:
            rows: number of train rows by domain.
            batch_size: rows of each domain per batch.
            seed: seed of the shuffling.
            lengths: number of tokens of each row by domain, to group rows of similar length; None does not group.
            unlabeled: number of unlabeled rows by domain; their indices follow those of the train rows.
            unlabeled_fraction: fraction of a domain's rows per batch that is unlabeled, below 1.
            held_back: indices of train rows by domain that are never drawn.
        """
        self._batch_size = batch_size
        self._seed = seed
        self._lengths = lengths
        self._domains = list(rows)
        held_back = held_back or {}
        indices = {d: sorted({*range(count)} - {*held_back.get(d, ())}) for d, count in rows.items() if count}
        self._labeled = {domain: ShuffledStream(domain, own, seed) for domain, own in indices.items()}
        self._unlabeled = {
            domain: ShuffledStream(_unlabeled_stream(domain), range(rows[domain], rows[domain] + count), seed)
            for domain, count in (unlabeled or {}).items()
            if count and (unlabeled_fraction or domain not in self._labeled)
        }
        self._unlabeled_per_labeled = unlabeled_per_labeled(unlabeled_fraction)
        self.batches_per_epoch = count_batches([*map(len, indices.values())], batch_size)
        self._batches = self._generate_batches()

    def __iter__(self) -> Iterator[dict[str, list[int]]]:
        return self

    def __next__(self) -> dict[str, list[int]]:
        batch = next(self._batches)
        return {d: batch.get(d, []) + batch.get(_unlabeled_stream(d), []) for d in self._domains}

    def skip(self, count: int) -> None:
        """Skip the next ``count`` batches."""
        for _ in range(count):
            next(self._batches)

    def _generate_batches(self) -> Iterator[_Batch]:
        drawn = 0
        while True:
            # Otherwise the rest of a pass would take the place of rows that this epoch must cover.
            for stream in self._labeled.values():
                stream.start_new_pass()
            for first in range(0, self.batches_per_epoch, SORT_WINDOW):
                # A window ends with the epoch, so that an epoch has the same rows with and without lengths.
                size = min(SORT_WINDOW, self.batches_per_epoch - first)
                batches = [self._draw_batch(drawn + n) for n in range(size)]
                drawn += size
                if self._lengths is not None:
                    batches = _regroup_by_length(batches, self._lengths)
                    random.Random(f"{self._seed}/{drawn}").shuffle(batches)
                yield from batches

    def _draw_batch(self, number: int) -> _Batch:
        size, ratio = self._batch_size, self._unlabeled_per_labeled
        # Rounding the totals keeps the fraction exact over many batches.
        count = _round_half_up((number + 1) * size * ratio) - _round_half_up(number * size * ratio)
        batch = {domain: stream.take(size) for domain, stream in self._labeled.items()}
        for domain, stream in self._unlabeled.items():
            batch[_unlabeled_stream(domain)] = stream.take(count if domain in self._labeled else size)
        return batch


def count_batches(sizes: Sequence[int], batch_size: int) -> int:
    """Return the batches per epoch of domains with these numbers of train rows."""
    return math.ceil(max(sizes) / batch_size)


def _unlabeled_stream(domain: str) -> str:
    """Return the name of a domain's unlabeled stream: part of its seed, so another name would change every run."""
    return f"{domain}/bare"  # no domain name has a slash


def _regroup_by_length(batches: Sequence[_Batch], lengths: Mapping[str, Sequence[int]]) -> list[_Batch]:
    """Redistribute the rows of each stream from short to long; each batch keeps its number of rows per stream.

    If a stream has rows more than once, each of its passes is sorted on its own, so that no batch repeats a row that it
    need not repeat.
    """
    regrouped: list[_Batch] = [{} for _ in batches]
    for stream in batches[0]:
        length_of, passes, drawn = lengths[stream.partition("/")[0]], Counter[int](), []
        for row in (row for batch in batches for row in batch[stream]):
            drawn.append((passes[row], length_of[row], row))
            passes[row] += 1
        rows = (row for _, _, row in sorted(drawn, key=itemgetter(0, 1)))
        for new, old in zip(regrouped, batches, strict=True):
            new[stream] = list(islice(rows, len(old[stream])))
    return regrouped


def unlabeled_per_labeled(unlabeled_fraction: float) -> float:
    """Return the number of unlabeled rows per labeled row that makes up this fraction of all rows."""
    return unlabeled_fraction / (1 - unlabeled_fraction)


def _round_half_up(value: float) -> int:
    return math.floor(value + 0.5)
