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

Bare rows (texts without labels) come on top: where a domain has some, they are a fixed share of its rows in each step,
in a stream of their own that goes round on its own. Steps and epochs are counted in labelled rows alone.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Iterator, Mapping, Sequence

from hrkd_cli.choices import Sampling
from hrkd_cli.errors import DataError, UsageError

_Step = tuple[dict[str, list[int]], dict[str, list[int]]]
"""Labelled and bare rows of a step, by domain."""

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
        self.domain = domain
        self.rows = len(rows)
        self._numbers = rows
        self._seed = seed
        self._position = 0
        self._pass = -1
        self._order: list[int] = []

    def take(self, count: int) -> list[int]:
        """Return the next ``count`` row indices, going into the next pass where this one ends."""
        taken: list[int] = []
        while len(taken) < count:
            number, offset = divmod(self._position, self.rows)
            part = self._permutation(number)[offset : offset + count - len(taken)]
            taken += part
            self._position += len(part)
        return taken

    def next_pass(self) -> None:
        """Go to the start of the next pass, unless this one has not begun."""
        self._position = math.ceil(self._position / self.rows) * self.rows

    def _permutation(self, number: int) -> list[int]:
        if number != self._pass:
            order = list(self._numbers)
            # A string seed goes through SHA-512, not hash(): the same order in every process.
            random.Random(f"{self._seed}/{self.domain}/{number}").shuffle(order)
            self._order, self._pass = order, number
        return self._order


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
        bare: Mapping[str, int] | None = None,
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
            bare: number of bare rows by domain; they are numbered after the train rows.
            share: share of bare rows among a domain's rows of a step, below 1.
            held_back: numbers of train rows by domain that are never drawn.

        Raises:
            DataError: there is no domain, or a domain has no rows.
            UsageError: the batch size is below 1.
        """
        if batch_size < 1:
            raise UsageError(f"--batch-size: {batch_size} is not at least 1")
        if not rows:
            raise DataError("there is no domain to train on")
        self._batch_size = batch_size
        self._sampling = Sampling(sampling)
        self._seed = seed
        self._lengths = lengths
        held = {domain: frozenset((held_back or {}).get(domain, ())) for domain in rows}
        drawn = {domain: [n for n in range(count) if n not in held[domain]] for domain, count in rows.items()}
        self._streams = {domain: DomainStream(domain, numbers, seed) for domain, numbers in drawn.items()}
        self._bare = {
            # No domain's name has a slash.
            domain: DomainStream(f"{domain}/bare", range(rows[domain], rows[domain] + count), seed)
            for domain, count in (bare or {}).items()
            if count and share
        }
        self._per_row = bare_per_row(share)
        self._taken = dict.fromkeys(self._bare, 0)
        rows = {domain: len(numbers) for domain, numbers in drawn.items()}
        self._shares = _shares(rows, batch_size * len(rows))
        self._credits = dict.fromkeys(rows, 0.0)
        self._drawn = 0
        self._ready: deque[_Step] = deque()
        if self._sampling is Sampling.COVER:
            self.steps_per_epoch = math.ceil(max(rows.values()) / batch_size)
        else:
            self.steps_per_epoch = math.ceil(sum(rows.values()) / (batch_size * len(rows)))

    def __iter__(self) -> Iterator[dict[str, list[int]]]:
        return self

    def __next__(self) -> dict[str, list[int]]:
        if not self._ready:
            # A window ends with its epoch, which therefore holds the same rows with and without lengths.
            left = self.steps_per_epoch - self._drawn % self.steps_per_epoch
            drawn = [self._draw() for _ in range(1 if self._lengths is None else min(WINDOW, left))]
            self._ready.extend(drawn if self._lengths is None else self._by_length(drawn, self._lengths))
        labelled, bare = self._ready.popleft()
        return {name: rows + bare.get(name, []) for name, rows in labelled.items()}

    def skip(self, steps: int) -> None:
        """Go past the next ``steps`` steps."""
        for _ in range(steps):
            next(self)

    def _draw(self) -> _Step:
        if self._sampling is Sampling.COVER and self._drawn % self.steps_per_epoch == 0:
            # Each epoch begins each domain anew: otherwise the end of a pass would eat into the next epoch's rows.
            for stream in self._streams.values():
                stream.next_pass()
        self._drawn += 1
        counts = self._temperature_counts() if self._sampling is Sampling.TEMPERATURE else {}
        labelled = {name: stream.take(counts.get(name, self._batch_size)) for name, stream in self._streams.items()}
        return labelled, {
            name: stream.take(self._due(name, len(labelled[name]))) for name, stream in self._bare.items()
        }

    def _due(self, name: str, labelled: int) -> int:
        """Return the bare rows that go with so many labelled ones; what is rounded off is made up for later."""
        before = self._taken[name]
        self._taken[name] = before + labelled
        return _rounded(self._taken[name] * self._per_row) - _rounded(before * self._per_row)

    def _by_length(self, steps: list[_Step], lengths: Mapping[str, Sequence[int]]) -> list[_Step]:
        """Deal the rows of some steps out again, short ones first, then shuffle the steps.

        Labelled and bare rows are dealt out apart, so that each step keeps its share of both.
        """
        dealt: list[_Step] = [({}, {}) for _ in steps]
        for kind, streams in enumerate((self._streams, self._bare)):
            for name in streams:
                rows = sorted((row for step in steps for row in step[kind][name]), key=lengths[name].__getitem__)
                first = 0
                for new, old in zip(dealt, steps, strict=True):
                    new[kind][name] = rows[first : first + len(old[kind][name])]
                    first += len(old[kind][name])
        random.Random(f"{self._seed}/{self._drawn}").shuffle(dealt)
        return dealt

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


def bare_per_row(share: float) -> float:
    """Return the bare rows that come on top of each labelled one where they are to be this share of both."""
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
