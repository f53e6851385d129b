"""Line charts as inline SVG, drawn by matplotlib in colors that the page's style sheet defines."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

COLORS = ("c0", "c1", "c2", "c3", "c4", "c5")
DASHES = ((), (6, 3), (2, 3), (8, 3, 2, 3))
# matplotlib draws in these colors; each becomes a variable of the style sheet, which has a light and a dark value.
_VARIABLES = {name: f"#0000{n:02x}" for n, name in enumerate(("text", "soft", "grid", "card", *COLORS), start=1)}

_LOG_FROM = 20.0  # ratio of the greatest to the least value from which an axis is logarithmic
_WIDTH, _HEIGHT = 400, 240
_AXES = (54 / _WIDTH, 36 / _HEIGHT, 326 / _WIDTH, 176 / _HEIGHT)  # left, bottom, width, height


class Line(NamedTuple):
    """How a line is drawn: a color of the style sheet; lengths drawn and left out in turn, none for a solid line."""

    name: str
    color: str
    dash: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """What a chart shows.

    Attributes:
        data: the values of each line (a column) by x (the index); a line passes over those that are missing.
        x_end: end of the x axis, which begins at 0; None for that of the lines.
        window: values that a point of a line is the centered mean of; with more than 1 each value is drawn faintly.
        limits: range of the y axis; None for that of the lines.
        may_be_log: the y axis is logarithmic where the values are positive and far apart.
        mean: the last line is the mean of the others, in the color of the text.
        dots: mark each point.
        level: a value to mark by a horizontal line.
        moment: an x to mark by a vertical line, and its name.
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
    level: float | None = None
    moment: tuple[float, str] | None = None

    @property
    def lines(self) -> list[Line]:
        """The lines, in the order of the columns."""
        names = map(str, self.data.columns)
        lines = [Line(s, COLORS[n % len(COLORS)], DASHES[n // len(COLORS) % len(DASHES)]) for n, s in enumerate(names)]
        return [*lines[:-1], Line(lines[-1].name, "text", ())] if self.mean else lines

    @property
    def smooth(self) -> pd.DataFrame:
        """The values as they are drawn; at both ends means of the values that there are."""
        return self.data.rolling(self.window, center=True, min_periods=1).mean() if self.window > 1 else self.data

    def svg(self, key: str) -> str:
        """Return the chart as an SVG element; ``key`` differs between the charts of a page, and ids derive from it."""
        # Imported here because it is slow. A Figure without pyplot touches no global state.
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
            known = column.dropna()
            marker = "o" if self.dots or len(known) == 1 else ""
            dash = (0, line.dash) if line.dash else "-"
            axes.plot(known.index, known, color=_VARIABLES[line.color], linestyle=dash, marker=marker, zorder=3)
        low, high = values.min(axis=None), values.max(axis=None)
        axes.set_yscale("log" if self.may_be_log and 0 < low * _LOG_FROM <= high else "linear")
        axes.set_ylim(*(self.limits or axes.get_ylim()))  # faint values, drawn next, do not widen it
        for line, (_, column) in zip(self.lines, self.data.items(), strict=True) if self.window > 1 else ():
            axes.plot(column.index, column, color=_VARIABLES[line.color], linewidth=1, alpha=0.2, zorder=2)
        axes.set_xlim(0, self.x_end)

    def _draw_axes(self, axes: Any) -> None:
        mark = {"color": _VARIABLES["soft"], "linewidth": 1, "linestyle": (0, (4, 3))}
        if self.level is not None:
            axes.axhline(self.level, **mark)
        if self.moment:
            x, name = self.moment
            axes.axvline(x, **mark)
            side = "right" if x > sum(axes.get_xlim()) / 2 else "left"
            axes.text(x, 1.02, name, transform=axes.get_xaxis_transform(), ha=side)
        axes.set_xlabel(self.x_label)
        axes.locator_params("x", nbins=5)
        label = self.y_label
        if axes.get_yscale() == "log":
            label += ", log scale"
            axes.yaxis.get_major_locator().set_params(subs=(1, 2, 5))
        else:
            axes.locator_params("y", nbins=5)
        axes.text(4 / _WIDTH, 1 - 13 / _HEIGHT, label, transform=axes.figure.transFigure)
        axes.minorticks_off()
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, _: number(value))


def number(value: float) -> str:
    """Write a number briefly: four significant digits, commas between thousands."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _inline(text: str) -> str:
    """Return the content of an SVG file as a part of the page: in its colors, without ids that charts would share."""
    body = text[text.index("<g id=") : text.rindex("</svg>")]
    body = re.sub(r">\s+<", "><", re.sub(r'<g id="[^"]*"', "<g", body))
    # Tenths of a pixel, and no space that paths do without.
    short = re.compile(r"(\.\d)\d+|\s+(?=[LMz\"])|(?<=[LM])\s+")
    body = re.sub(r' d="[^"]*"', lambda path: short.sub(r"\1", path[0]), body)
    for name, color in _VARIABLES.items():
        body = body.replace(color, f"var(--{name})")
    return body
