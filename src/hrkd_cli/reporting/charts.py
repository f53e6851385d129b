"""Line charts as inline SVG, drawn by matplotlib in the colors of the page's style sheet."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

COLORS = ("c0", "c1", "c2", "c3", "c4", "c5")
DASHES = ((), (6, 3), (2, 3), (8, 3, 2, 3))
# Placeholder colors for matplotlib. Each is replaced by a CSS variable, which has a light and a dark value.
_VARIABLES = {name: f"#0000{n:02x}" for n, name in enumerate(("text", "soft", "grid", "card", *COLORS), start=1)}

_MIN_LOG_RATIO = 20.0  # an axis can be logarithmic if the maximum is at least this many times the minimum
_WIDTH, _HEIGHT = 400, 240
_AXES = (54 / _WIDTH, 36 / _HEIGHT, 326 / _WIDTH, 176 / _HEIGHT)  # left, bottom, width, height


class Line(NamedTuple):
    """Style of a line: a color of the style sheet, and the lengths of dashes and gaps (empty for a solid line)."""

    name: str
    color: str
    dash: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """A line chart.

    Attributes:
        data: one line per column, with x as index; missing values are skipped.
        x_end: end of the x axis, which starts at 0; None for the end of the data.
        window: window of a centered moving average; if above 1, the original values are drawn faintly.
        limits: limits of the y axis; None for those of the data.
        may_be_log: use a logarithmic y axis if the values are positive and span a large range.
        mean: the last line is the mean of the others, drawn in the text color.
        dots: mark every point.
        horizontal: a y value to mark with a horizontal line.
        vertical: an x value to mark with a vertical line, and the label of the line.
        diagonal: mark the line where y equals x.
        x_log: use a logarithmic x axis, from the first to the last value, with a label at each value.
    """

    title: str
    x_label: str
    y_label: str
    data: pd.DataFrame
    x_end: float | None = None
    window: int = 1
    limits: tuple[float, float] | None = None
    may_be_log: bool = False
    mean: bool = False
    dots: bool = False
    horizontal: float | None = None
    vertical: tuple[float, str] | None = None
    diagonal: bool = False
    x_log: bool = False

    @property
    def lines(self) -> list[Line]:
        """Style of each line, in the order of the columns."""
        names = map(str, self.data.columns)
        lines = [Line(s, COLORS[n % len(COLORS)], DASHES[n // len(COLORS) % len(DASHES)]) for n, s in enumerate(names)]
        return [*lines[:-1], Line(lines[-1].name, "text", ())] if self.mean else lines

    @property
    def smooth(self) -> pd.DataFrame:
        """The smoothed values; at both ends, the window is cut off."""
        return self.data.rolling(self.window, center=True, min_periods=1).mean() if self.window > 1 else self.data

    def svg(self, key: str) -> str:
        """Return the chart as an SVG element; ``key`` makes its ids unique in the page."""
        # Imported here because it is slow. A Figure without pyplot changes no global state.
        from matplotlib import rc_context
        from matplotlib.figure import Figure

        with rc_context({"svg.hashsalt": key}, Path(__file__).with_name("chart.mplstyle")):
            figure = Figure(figsize=(_WIDTH / 72, _HEIGHT / 72), dpi=72)
            axes = figure.add_axes(_AXES)
            self._draw_lines(axes)
            self._draw_axes(axes)
            stream = io.StringIO()
            figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
        return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{_inline(stream.getvalue())}</svg>'

    def _draw_lines(self, axes: Any) -> None:
        values = self.smooth
        for line, (_, column) in zip(self.lines, values.items(), strict=True):
            points = column.dropna()
            marker = "o" if self.dots or len(points) == 1 else ""
            dash = (0, line.dash) if line.dash else "-"
            axes.plot(points.index, points, color=_VARIABLES[line.color], linestyle=dash, marker=marker, zorder=3)
        low, high = values.min(axis=None), values.max(axis=None)
        axes.set_yscale("log" if self.may_be_log and 0 < low * _MIN_LOG_RATIO <= high else "linear")
        axes.set_ylim(*(self.limits or axes.get_ylim()))  # fixed before the original values are drawn
        if self.window > 1:
            for line, (_, column) in zip(self.lines, self.data.items(), strict=True):
                axes.plot(column.index, column, color=_VARIABLES[line.color], linewidth=1, alpha=0.2, zorder=2)
        if self.x_log:
            axes.set_xscale("log")
            axes.set_xticks(self.data.index)
        else:
            axes.set_xlim(0, self.x_end)
            axes.locator_params("x", nbins=5)

    def _draw_axes(self, axes: Any) -> None:
        style = {"color": _VARIABLES["soft"], "linewidth": 1, "linestyle": (0, (4, 3))}
        if self.diagonal:
            axes.axline((0, 0), slope=1, **style)
        if self.horizontal is not None:
            axes.axhline(self.horizontal, **style)
        if self.vertical:
            x, label = self.vertical
            axes.axvline(x, **style)
            alignment = "right" if x > sum(axes.get_xlim()) / 2 else "left"
            axes.text(x, 1.02, label, transform=axes.get_xaxis_transform(), ha=alignment)
        axes.set_xlabel(f"{self.x_label}, log scale" if self.x_log else self.x_label)
        y_label = self.y_label
        if axes.get_yscale() == "log":
            y_label += ", log scale"
            axes.yaxis.get_major_locator().set_params(subs=(1, 2, 5))
        else:
            axes.locator_params("y", nbins=5)
        axes.text(4 / _WIDTH, 1 - 13 / _HEIGHT, y_label, transform=axes.figure.transFigure)
        axes.minorticks_off()
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, _: format_number(value))


def format_number(value: float) -> str:
    """Return a number with four significant digits, or with thousands separators."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _inline(text: str) -> str:
    """Return the content of an SVG file for the page: with its CSS colors, and without ids that charts share."""
    body = text[text.index("<g id=") : text.rindex("</svg>")]
    body = re.sub(r">\s+<", "><", re.sub(r'<g id="[^"]*"', "<g", body))
    # Shorten the paths: one decimal, no unnecessary spaces.
    redundant = re.compile(r"(\.\d)\d+|\s+(?=[LMz\"])|(?<=[LM])\s+")
    body = re.sub(r' d="[^"]*"', lambda path: redundant.sub(r"\1", path[0]), body)
    for name, color in _VARIABLES.items():
        body = body.replace(color, f"var(--{name})")
    return body
