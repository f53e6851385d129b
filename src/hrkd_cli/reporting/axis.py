"""Axes of a chart: where its ticks are, how their numbers are written, and where a value lies."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

_STEPS = (1, 2, 2.5, 5, 10)
_LOG_STEPS = ((1,), (1, 3), (1, 2, 5))
_MARGIN = 0.04  # of the range, kept free above and below the lines


@dataclass(frozen=True, slots=True)
class Axis:
    """A range of values.

    Attributes:
        low: its least value.
        high: its greatest, above ``low``.
        log: whether equal lengths mean equal ratios.
    """

    low: float
    high: float
    log: bool = False

    def share(self, value: float) -> float:
        """Return where a value lies: 0 at the lower end, 1 at the upper, beyond them for values outside."""
        if self.log:
            if value <= 0:
                return -1.0
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self, about: int) -> list[float]:
        """Return round values in the range, roughly ``about`` of them."""
        if self.log:
            return _log_ticks(self.low, self.high, about)
        least = (self.high - self.low) / max(1, about)
        power = 10.0 ** math.floor(math.log10(least))
        step = next(s for s in (n * power for n in _STEPS) if s >= least * (1 - 1e-9))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [n * step for n in range(first, last + 1)]


def fit(values: Iterable[float], *, log: bool = False) -> Axis:
    """Return an axis that holds all values with a little room; of no values, or equal ones, it is some range."""
    found = list(values) or [0.0]
    low, high = min(found), max(found)
    if log and low > 0:
        room = (high / low) ** _MARGIN if high > low else 1.1
        return Axis(low / room, high * room, log=True)
    room = _MARGIN * (high - low) or 0.1 * abs(high) or 1.0
    # Room below 0 would suggest that there can be such values.
    return Axis(0.0 if 0 <= low < room else low - room, high + room)


def spans_decades(values: Iterable[float], factor: float = 20.0) -> bool:
    """Tell whether values are all positive and too far apart for a linear axis."""
    found = list(values)
    return bool(found) and min(found) > 0 and max(found) / min(found) >= factor


def number(value: float) -> str:
    """Write a number briefly: four significant digits, commas between thousands."""
    if value and (abs(value) < 1e-3 or abs(value) >= 1e7):
        mantissa, _, power = f"{value:.2e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(power)}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _log_ticks(low: float, high: float, about: int) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    best: list[float] = []
    for steps in _LOG_STEPS:
        found = [n * 10.0**power for power in decades for n in steps if low <= n * 10.0**power <= high]
        if not best or len(found) <= about + 1:
            best = found
    # A range within one decade may hold none of these.
    return best if len(best) > 1 else Axis(low, high).ticks(about)
