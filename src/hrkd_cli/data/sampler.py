"""Batch sampling over domains of different sizes. Row indices only: no text, no tensors.

``hrkd_cli.choices.Sampling`` has three strategies. B is the batch size per domain, D the number of domains, N the
number of rows of a domain:

=============  ==============================  ====================  ================================================
sampling       rows per batch                  batches per epoch     meaning of an epoch
=============  ==============================  ====================  ================================================
cover          B of every domain               ceil(max N / B)       every row of every domain at least once; smaller
                                                                     domains are repeated
balanced       B of every domain               ceil(sum N / (D B))   as many rows as the dataset has; a pass over a
                                                                     domain may continue in the next epoch
temperature    D B, in proportion to sqrt(N),  ceil(sum N / (D B))   as balanced, with more rows of larger domains
               at least 1 of every domain
=============  ==============================  ====================  ================================================

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

from hrkd_cli.choices import Sampling

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
        batches_per_epoch: batches per epoch (see the table above).
    """

    def __init__(
        self,
        rows: Mapping[str, int],
        *,
        batch_size: int,
        sampling: Sampling | str,
        seed: int,
        lengths: Mapping[str, Sequence[int]] | None = None,
        unlabeled: Mapping[str, int] | None = None,
        unlabeled_fraction: float = 0.0,
        held_back: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        """Create a sampler that starts at batch 0.

        Args:
            rows: number of train rows by domain.
            batch_size: rows of each domain per batch (on average, with temperature sampling).
            sampling: the strategy (see the table above).
            seed: seed of the shuffling.
            lengths: number of tokens of each row by domain, to group rows of similar length; None does not group.
            unlabeled: number of unlabeled rows by domain; their indices follow those of the train rows.
            unlabeled_fraction: fraction of a domain's rows per batch that is unlabeled, below 1.
            held_back: indices of train rows by domain that are never drawn.
        """
        self._batch_size = batch_size
        self._sampling = Sampling(sampling)
        self._seed = seed
        self._lengths = lengths
        self._domains = list(rows)
        self._labeled: dict[str, ShuffledStream] = {}
        sizes: dict[str, int] = {}
        unlabeled = {domain: count for domain, count in (unlabeled or {}).items() if count}
        for domain, count in rows.items():
            if not count:
                continue
            excluded = frozenset((held_back or {}).get(domain, ()))
            indices = [index for index in range(count) if index not in excluded]
            self._labeled[domain] = ShuffledStream(domain, indices, seed)
            sizes[domain] = len(indices)
        self._unlabeled = {
            domain: ShuffledStream(_unlabeled_stream(domain), range(rows[domain], rows[domain] + count), seed)
            for domain, count in unlabeled.items()
            if unlabeled_fraction or domain not in self._labeled
        }
        self._unlabeled_per_labeled = unlabeled_per_labeled(unlabeled_fraction)
        # Labeled rows drawn so far, of domains that have both kinds.
        self._labeled_drawn = dict.fromkeys(self._unlabeled, 0)
        self._mean_counts = _temperature_mean_counts(sizes, batch_size * len(sizes))
        self._carried = dict.fromkeys(sizes, 0.0)
        self.batches_per_epoch = count_batches([*sizes.values()], batch_size, self._sampling)
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
            if self._sampling is Sampling.COVER:
                # Otherwise the rest of a pass would take the place of rows that this epoch must cover.
                for stream in self._labeled.values():
                    stream.start_new_pass()
            for first in range(0, self.batches_per_epoch, SORT_WINDOW):
                # A window ends with the epoch, so that an epoch has the same rows with and without lengths.
                batches = [self._draw_batch() for _ in range(min(SORT_WINDOW, self.batches_per_epoch - first))]
                drawn += len(batches)
                if self._lengths is not None:
                    batches = _regroup_by_length(batches, self._lengths)
                    random.Random(f"{self._seed}/{drawn}").shuffle(batches)
                yield from batches

    def _draw_batch(self) -> _Batch:
        if self._sampling is Sampling.TEMPERATURE:
            counts = self._temperature_counts()
        else:
            counts = dict.fromkeys(self._labeled, self._batch_size)
        batch = {domain: self._labeled[domain].take(count) for domain, count in counts.items()}
        for domain, stream in self._unlabeled.items():
            if domain not in counts:
                batch[_unlabeled_stream(domain)] = stream.take(self._batch_size)
                continue
            # Rounding the running totals keeps the fraction exact over many batches.
            before = self._labeled_drawn[domain]
            after = self._labeled_drawn[domain] = before + counts[domain]
            ratio = self._unlabeled_per_labeled
            batch[_unlabeled_stream(domain)] = stream.take(
                _round_half_up(after * ratio) - _round_half_up(before * ratio)
            )
        return batch

    def _temperature_counts(self) -> dict[str, int]:
        """Round the mean counts so that every batch has the same total; rounding errors go to later batches."""
        targets = {domain: self._carried[domain] + mean for domain, mean in self._mean_counts.items()}
        counts = {domain: max(1, math.floor(target)) for domain, target in targets.items()}
        missing = self._batch_size * len(counts) - sum(counts.values())
        while missing:
            sign = 1 if missing > 0 else -1
            # No domain goes down to 0 rows; if the sum is too high, at least one domain has more than 1.
            candidates = [domain for domain in counts if sign > 0 or counts[domain] > 1]
            domain = max(candidates, key=lambda d: sign * (targets[d] - counts[d]))
            counts[domain] += sign
            missing -= sign
        self._carried = {domain: targets[domain] - counts[domain] for domain in counts}
        return counts


def count_batches(sizes: Sequence[int], batch_size: int, sampling: Sampling | str) -> int:
    """Return the batches per epoch of domains with these numbers of train rows."""
    if sampling == Sampling.COVER:
        return math.ceil(max(sizes) / batch_size)
    return math.ceil(sum(sizes) / (batch_size * len(sizes)))


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


def _temperature_mean_counts(sizes: Mapping[str, int], total: int) -> dict[str, float]:
    """Return each domain's mean rows per batch: proportional to sqrt(size), raised to 1 where it would be less."""
    raised: set[str] = set()
    while True:
        weights = {domain: math.sqrt(size) for domain, size in sizes.items() if domain not in raised}
        scale = (total - len(raised)) / sum(weights.values())
        too_low = {domain for domain, weight in weights.items() if weight * scale < 1}
        # With a batch size of 1 every domain has exactly 1; rounding errors must not raise them all.
        if not too_low or len(too_low) == len(weights):
            return {domain: max(1.0, weights[domain] * scale) if domain in weights else 1.0 for domain in sizes}
        raised |= too_low
