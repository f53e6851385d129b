"""Which rows a training step sees. Only indices: no tensors, no text.

Three ways to share a step among domains of different sizes (``hrkd_cli.choices.Sampling``); B is the batch size a
domain, D the number of domains, N the number of rows:

=============  ==============================  ====================  ================================================
sampling       rows of a step                  steps of an epoch     what an epoch means
=============  ==============================  ====================  ================================================
cover          B of every domain               ceil(max N / B)       every row of every domain at least once; smaller
                                                                     domains go round again
balanced       B of every domain               ceil(sum N / (D B))   as many rows as there are; a domain's pass goes
                                                                     on in the next epoch
temperature    D B, in proportion to sqrt(N),  ceil(sum N / (D B))   as balanced, with larger domains seen more
               at least 1 of every domain                            often
=============  ==============================  ====================  ================================================

Unlabelled rows come on top: where a domain has some, they are a fixed share of its rows in each step, in a stream of
their own. Steps and epochs are counted in labelled rows alone.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from hrkd_cli.choices import Sampling
from hrkd_cli.errors import DataError

_Step = dict[str, list[int]]
"""Rows of a step by stream: ``DOMAIN`` for labelled rows, ``DOMAIN/bare`` for unlabelled ones."""

WINDOW = 16  # steps whose rows are sorted by length together


class DomainStream:
    """An endless stream of row indices: a fresh permutation of the rows each pass.

    The order depends on the numbers of the rows, seed, domain name and pass number only.
    """

    def __init__(self, domain: str, rows: Sequence[int], seed: int) -> None:
        if not rows:
            raise DataError(
                f"domain {domain!r} has no train rows: add some, or leave it out with --domains when preparing"
            )
        self._domain = domain
        self._rows = rows
        self._seed = seed
        self._passes = 0
        self._left: Iterator[int] = iter(())

    def take(self, count: int) -> list[int]:
        """Return the next ``count`` row indices, going into the next pass where this one ends."""
        taken = list(islice(self._left, count))
        while len(taken) < count:
            order = list(self._rows)
            # A string seed goes through SHA-512, not hash(): the same order in every process.
            random.Random(f"{self._seed}/{self._domain}/{self._passes}").shuffle(order)
            self._passes += 1
            self._left = iter(order)
            taken += islice(self._left, count - len(taken))
        return taken

    def next_pass(self) -> None:
        """Drop the rest of the pass: the next row is the first of a new one."""
        self._left = iter(())


class Sampler:
    """An endless iterator of steps: row indices by domain, in the order in which the domains were given.

    The n-th step depends on the arguments and n only, so that a number is all there is to save.

    Attributes:
        steps_per_epoch: steps that make an epoch (see the module's table).
    """

    def __init__(
        self,
        rows: Mapping[str, int],
        *,
        batch_size: int,
        sampling: Sampling | str,
        seed: int,
        lengths: Mapping[str, Sequence[int]] | None = None,
        unlabelled: Mapping[str, int] | None = None,
        share: float = 0.0,
        held_back: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        """Make a sampler.

        Args:
            rows: number of train rows by domain.
            batch_size: rows of each domain in a step (on average, under temperature sampling).
            sampling: see the module's table.
            seed: of the permutations.
            lengths: tokens of each row by domain, for steps of similar length; None for steps as they are drawn.
            unlabelled: number of unlabelled rows by domain; they are numbered after the train rows.
            share: share of unlabelled rows among a domain's rows of a step, below 1.
            held_back: numbers of train rows by domain that are never drawn.

        Raises:
            DataError: a domain has no rows.
        """
        self._batch_size = batch_size
        self._sampling = Sampling(sampling)
        self._seed = seed
        self._lengths = lengths
        held = {domain: frozenset((held_back or {}).get(domain, ())) for domain in rows}
        drawn = {domain: [n for n in range(count) if n not in held[domain]] for domain, count in rows.items()}
        self._streams = {domain: DomainStream(domain, numbers, seed) for domain, numbers in drawn.items()}
        self._unlabelled = {
            # No domain's name has a slash.
            domain: DomainStream(f"{domain}/bare", range(rows[domain], rows[domain] + count), seed)
            for domain, count in (unlabelled or {}).items()
            if count and share
        }
        self._per_row = unlabelled_per_row(share)
        self._taken = dict.fromkeys(self._unlabelled, 0)
        sizes = {domain: len(numbers) for domain, numbers in drawn.items()}
        self._shares = _shares(sizes, batch_size * len(sizes))
        self._credits = dict.fromkeys(sizes, 0.0)
        if self._sampling is Sampling.COVER:
            self.steps_per_epoch = math.ceil(max(sizes.values()) / batch_size)
        else:
            self.steps_per_epoch = math.ceil(sum(sizes.values()) / (batch_size * len(sizes)))
        self._steps = self._generate()

    def __iter__(self) -> Iterator[dict[str, list[int]]]:
        return self

    def __next__(self) -> dict[str, list[int]]:
        step = next(self._steps)
        return {domain: step[domain] + step.get(f"{domain}/bare", []) for domain in self._streams}

    def skip(self, steps: int) -> None:
        """Go past the next ``steps`` steps."""
        for _ in range(steps):
            next(self._steps)

    def _generate(self) -> Iterator[_Step]:
        drawn = 0
        while True:
            if self._sampling is Sampling.COVER:
                # Each epoch begins each domain anew: otherwise the end of a pass would eat into the next epoch's rows.
                for stream in self._streams.values():
                    stream.next_pass()
            for first in range(0, self.steps_per_epoch, WINDOW):
                # A window ends with its epoch, which therefore holds the same rows with and without lengths.
                steps = [self._draw() for _ in range(min(WINDOW, self.steps_per_epoch - first))]
                drawn += len(steps)
                if self._lengths is not None:
                    steps = _by_length(steps, self._lengths)
                    random.Random(f"{self._seed}/{drawn}").shuffle(steps)
                yield from steps

    def _draw(self) -> _Step:
        is_temperature = self._sampling is Sampling.TEMPERATURE
        counts = self._temperature_counts() if is_temperature else dict.fromkeys(self._streams, self._batch_size)
        step = {domain: self._streams[domain].take(count) for domain, count in counts.items()}
        for domain, stream in self._unlabelled.items():
            # What is rounded off is made up for later.
            before = self._taken[domain]
            self._taken[domain] += counts[domain]
            due = _rounded(self._taken[domain] * self._per_row) - _rounded(before * self._per_row)
            step[f"{domain}/bare"] = stream.take(due)
        return step

    def _temperature_counts(self) -> dict[str, int]:
        """Round the shares so that every step has the same total, carrying what is rounded off to later steps."""
        credits = {name: self._credits[name] + share for name, share in self._shares.items()}
        counts = {name: max(1, math.floor(credit)) for name, credit in credits.items()}
        left = self._batch_size * len(counts) - sum(counts.values())
        while left:
            sign = 1 if left > 0 else -1
            # Lowering a domain to 0 rows is not a choice; there is always one above 1 when the sum is too high.
            open_to = [name for name in counts if sign > 0 or counts[name] > 1]
            name = max(open_to, key=lambda n: sign * (credits[n] - counts[n]))
            counts[name] += sign
            left -= sign
        self._credits = {name: credits[name] - counts[name] for name in counts}
        return counts


def _by_length(steps: Sequence[_Step], lengths: Mapping[str, Sequence[int]]) -> list[_Step]:
    """Deal the rows of each stream out again, short ones first; each step keeps its number of rows of each."""
    dealt: list[_Step] = [{} for _ in steps]
    for name in steps[0]:
        length = lengths[name.partition("/")[0]].__getitem__
        rows = iter(sorted((row for step in steps for row in step[name]), key=length))
        for new, old in zip(dealt, steps, strict=True):
            new[name] = list(islice(rows, len(old[name])))
    return dealt


def unlabelled_per_row(share: float) -> float:
    """Return the unlabelled rows that come on top of each labelled one where they are to be this share of both."""
    return share / (1 - share)


def _rounded(value: float) -> int:
    """Round to the nearest whole number, halves up."""
    return math.floor(value + 0.5)


def _shares(rows: Mapping[str, int], total: int) -> dict[str, float]:
    """Return each domain's mean rows a step: in proportion to sqrt(rows), lifted to 1 where that is less."""
    lifted: set[str] = set()
    while True:
        free = {name: math.sqrt(count) for name, count in rows.items() if name not in lifted}
        scale = (total - len(lifted)) / sum(free.values())
        low = {name for name, weight in free.items() if weight * scale < 1}
        # With a batch of 1 everyone has exactly 1; rounding noise must not empty the list.
        if not low or len(low) == len(free):
            return {name: max(1.0, free[name] * scale) if name in free else 1.0 for name in rows}
        lifted |= low
