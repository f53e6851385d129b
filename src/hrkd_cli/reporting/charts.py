"""Line charts as inline SVG, drawn by matplotlib in colors that the page's style sheet defines."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hrkd_cli.reporting.run import Array

NEUTRAL = -1
"""Style of a line in the color of the text; the others count through COLORS, then take them again with another dash."""
COLORS = ("c0", "c1", "c2", "c3", "c4", "c5")
DASHES = ((), (6, 3), (2, 3), (8, 3, 2, 3))
# matplotlib draws in these colors; each becomes a variable of the style sheet, which has a light and a dark value.
_VARIABLES = {name: f"#0000{n:02x}" for n, name in enumerate(("text", "soft", "grid", "card", *COLORS), start=1)}

_POINTS = 200  # of a smoothed line
_LEAST_SMOOTHED = 30  # steps; fewer are shown as they are
_LOG_FROM = 20.0  # ratio of the greatest to the least value from which an axis is logarithmic
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 400, 240, 54, 20, 28, 36
_STYLE = {
    "svg.fonttype": "none",
    "path.simplify_threshold": 1.0,
    "font.family": ["DejaVu Sans"],
    "font.size": 11.5,
    "text.color": _VARIABLES["text"],
    "axes.labelcolor": _VARIABLES["text"],
    "axes.edgecolor": _VARIABLES["soft"],
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.spines.top": False,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "grid.color": _VARIABLES["grid"],
    "xtick.color": _VARIABLES["soft"],
    "ytick.color": _VARIABLES["soft"],
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "axes.xmargin": 0,
    "axes.ymargin": 0.1,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.8,
    "lines.markeredgecolor": _VARIABLES["card"],
    "lines.scale_dashes": False,
}


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a chart; ``faint`` are x and y before smoothing, drawn behind it."""

    name: str
    x: Array
    y: Array
    style: int = 0
    faint: tuple[Array, Array] | None = None

    @property
    def color(self) -> str:
        """Variable of the style sheet."""
        return "text" if self.style == NEUTRAL else COLORS[self.style % len(COLORS)]

    @property
    def dash(self) -> tuple[int, ...]:
        """Lengths drawn and left out in turn; empty for a solid line."""
        return () if self.style == NEUTRAL else DASHES[self.style // len(COLORS) % len(DASHES)]


@dataclass(frozen=True, slots=True)
class Chart:
    """What a chart shows.

    Attributes:
        x_end: end of the x axis, which begins at 0; None for that of the lines.
        limits: range of the y axis; None for that of the lines.
        log: whether the y axis is logarithmic.
        dots: mark each point.
        level: a value to mark by a horizontal line.
        moment: an x to mark by a vertical line, and its name.
    """

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    x_end: float | None = None
    limits: tuple[float, float] | None = None
    log: bool = False
    dots: bool = False
    level: float | None = None
    moment: tuple[float, str] | None = None

    def rows(self) -> list[list[str]]:
        """Return the values as a table: a row for each x, a column for each line."""
        rows: dict[float, list[str]] = {}
        for index, line in enumerate(self.lines):
            for x, y in zip(line.x, line.y, strict=True):
                rows.setdefault(x, [""] * len(self.lines))[index] = number(y)
        return [[number(x), *rows[x]] for x in sorted(rows)]

    def svg(self, key: str) -> str:
        """Return the chart as an SVG element; ``key`` differs between the charts of a page, and ids derive from it."""
        # Imported here because it is slow. A Figure without pyplot touches no global state.
        from matplotlib import rc_context
        from matplotlib.figure import Figure

        inner = (_WIDTH - _LEFT - _RIGHT) / _WIDTH, (_HEIGHT - _TOP - _BOTTOM) / _HEIGHT
        with rc_context({**_STYLE, "svg.hashsalt": key}):
            figure = Figure(figsize=(_WIDTH / 72, _HEIGHT / 72), dpi=72)
            axes = figure.add_axes((_LEFT / _WIDTH, _BOTTOM / _HEIGHT, *inner))
            self._draw_lines(axes)
            self._draw_axes(axes)
            stream = io.StringIO()
            figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
        return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{_inline(stream.getvalue())}</svg>'

    def _draw_lines(self, axes: Any) -> None:
        for line in self.lines:
            marker = "o" if self.dots or len(line.x) == 1 else ""
            axes.plot(line.x, line.y, color=_VARIABLES[line.color], marker=marker, zorder=3)
            if line.dash:
                axes.lines[-1].set_linestyle((0, line.dash))
        axes.set_yscale("log" if self.log else "linear")
        axes.set_ylim(*(self.limits or axes.get_ylim()))  # faint values, drawn next, do not widen it
        for line in self.lines:
            if line.faint:
                axes.plot(*line.faint, color=_VARIABLES[line.color], linewidth=1, alpha=0.2, zorder=2)
        axes.set_xlim(0, self.x_end)

    def _draw_axes(self, axes: Any) -> None:
        from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

        mark = {"color": _VARIABLES["soft"], "linewidth": 1, "linestyle": (0, (4, 3))}
        if self.level is not None:
            axes.axhline(self.level, **mark)
        if self.moment:
            x, name = self.moment
            axes.axvline(x, **mark)
            side = "right" if x > sum(axes.get_xlim()) / 2 else "left"
            axes.text(x, 1.02, name, transform=axes.get_xaxis_transform(), ha=side)
        axes.set_xlabel(self.x_label)
        label = f"{self.y_label}, log scale" if self.log else self.y_label
        axes.text(4 / _WIDTH, 1 - 13 / _HEIGHT, label, transform=axes.figure.transFigure)
        steps = [1, 2, 2.5, 5, 10]
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=steps))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if self.log else MaxNLocator(5, steps=steps))
        axes.yaxis.set_minor_formatter(NullFormatter())
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))


def smoothing_window(count: int, share: float) -> int:
    """Return how many of ``count`` steps a smoothed value is the mean of; 1 where smoothing would hide a short run."""
    if not share or count < _LEAST_SMOOTHED:
        return 1
    return max(5, round(share * count)) | 1  # odd: as many steps before as after


def smooth(name: str, x: Array, y: Array, style: int, share: float) -> Line:
    """Return a line of centered means over a share of the steps; at both ends over the steps that there are."""
    half = smoothing_window(len(x), share) // 2
    if not half:
        return Line(name, x, y, style)
    at = np.unique(np.linspace(0, len(x) - 1, min(len(x), _POINTS)).round().astype(np.intp))
    low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(x))
    sums = np.concatenate(([0.0], np.cumsum(y)))
    return Line(name, x[at], (sums[high] - sums[low]) / (high - low), style, faint=(x, y))


def spans_decades(values: Array) -> bool:
    """Tell whether values are all positive and too far apart for a linear axis."""
    return len(values) > 0 and values.min() > 0 and bool(values.max() / values.min() >= _LOG_FROM)


def number(value: float) -> str:
    """Write a number briefly: four significant digits, commas between thousands."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _inline(text: str) -> str:
    """Return the content of an SVG file as a part of the page: in its colors, without ids that charts would share."""
    body = text[text.index("<g id=") : text.rindex("</svg>")]
    body = re.sub(r' id="(?![mp][0-9a-f]{10}")[^"]*"', "", body)  # all but those of markers and clips
    # Tenths of a pixel, and no space that paths do without.
    short = re.compile(r"(\.\d)\d+|\s+(?=[LMz\"])|(?<=[LM])\s+")
    body = re.sub(r' d="[^"]*"', lambda path: short.sub(r"\1", path[0]), body)
    for name, color in _VARIABLES.items():
        body = body.replace(color, f"var(--{name})")
    return body
