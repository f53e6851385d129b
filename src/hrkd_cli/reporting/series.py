"""A number over the steps of a run: thinned for drawing, smoothed for reading."""

from __future__ import annotations

import itertools
import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

Points = list[tuple[float, float]]

SMOOTHED_SHARE = 0.02
"""Of the steps, that one smoothed value is the mean of, unless said otherwise."""
LEAST_SMOOTHED = 30
"""Steps below which a curve is drawn as it is."""
_LEAST_WINDOW = 5


@dataclass(slots=True)
class Series:
    """Values that were recorded at some steps, in the order of the steps; all of them finite.

    Attributes:
        x: steps.
        y: values.
    """

    x: array[float] = field(default_factory=lambda: array("d"))
    y: array[float] = field(default_factory=lambda: array("d"))

    def add(self, x: float, y: float) -> None:
        """Append a value; one that is not finite leaves a gap."""
        if math.isfinite(y):
            self.x.append(x)
            self.y.append(y)

    def __len__(self) -> int:
        return len(self.x)

    def points(self) -> Points:
        """Return every value with its step."""
        return list(zip(self.x, self.y, strict=True))


def window(count: int, share: float = SMOOTHED_SHARE) -> int:
    """Return how many of ``count`` steps a smoothed value is the mean of; 1 where smoothing would hide a short run."""
    if count < LEAST_SMOOTHED:
        return 1
    return max(_LEAST_WINDOW, round(share * count)) | 1  # odd: as many steps before as after


def smooth(series: Series, most: int, width: int) -> Points:
    """Return centred running means over ``width`` steps, at no more than ``most`` steps.

    At both ends the mean runs over the steps that there are.
    """
    count, half = len(series), width // 2
    sums = [0.0]
    for value in series.y:
        sums.append(sums[-1] + value)
    found: Points = []
    for place in places(count, most):
        low, high = max(0, place - half), min(count, place + half + 1)
        found.append((series.x[place], (sums[high] - sums[low]) / (high - low)))
    return found


def thin(series: Series, most: int) -> Points:
    """Return no more than ``most`` points: the lowest and the highest of each of equal bins, so no peak is lost."""
    if len(series) <= most:
        return series.points()
    found: Points = []
    for low, high in _bins(len(series), max(1, most // 2)):
        ends = {min(range(low, high), key=series.y.__getitem__), max(range(low, high), key=series.y.__getitem__)}
        found.extend((series.x[place], series.y[place]) for place in sorted(ends))
    return found


def bin_means(series: Series, most: int) -> Points:
    """Return the mean of each of at most ``most`` equal bins, with the last step of each: values for a table."""
    bins = list(_bins(len(series), min(most, len(series))))
    return [(series.x[high - 1], math.fsum(series.y[low:high]) / (high - low)) for low, high in bins]


def usual_range(points: Points, share: float = 0.01) -> list[float]:
    """Return the least and the greatest value, a few of the farthest left out: ``share`` of them at either end."""
    values = sorted(y for _, y in points)
    cut = int(share * len(values))
    return [values[cut], values[-1 - cut]] if values else []


def _bins(count: int, bins: int) -> Iterator[tuple[int, int]]:
    edges = [count * n // bins for n in range(bins + 1)] if bins else [0]
    return itertools.pairwise(edges)


def places(count: int, most: int) -> Sequence[int]:
    """Return at most ``most`` indices, the first and the last among them."""
    if count <= most:
        return range(count)
    return [round(n * (count - 1) / (most - 1)) for n in range(most)]
