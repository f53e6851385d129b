"""A line chart as inline SVG, coloured by classes of the page's style sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from hrkd_cli.reporting.axis import Axis, fit, number
from hrkd_cli.reporting.series import Points

COLOURS = 6
"""Colours of the style sheet; further lines take them again with another dash."""
NEUTRAL = -1
"""Index of the colour of the text, which no numbered line has."""
DASHES = ("", "6 3", "2 3", "8 3 2 3")

WIDTH = 400
LEFT, RIGHT, TOP, BOTTOM = 54, 12, 28, 36
_CHARACTER = 7.0  # width of a label's character, for what must not leave the picture


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a chart.

    Attributes:
        name: what it shows.
        points: to be joined, in order of x.
        colour: index of its colour and dash; lines of one name have one index all over the page.
        faint: the same values before smoothing, drawn behind it.
        dots: mark each point.
        strong: draw it thicker than the others.
    """

    name: str
    points: Points
    colour: int = 0
    faint: Points = field(default_factory=list)
    dots: bool = False
    strong: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """What a chart shows.

    Attributes:
        title: one line.
        x_label: the x axis, with its unit.
        y_label: the y axis, with its unit.
        lines: what is drawn.
        height: of the picture, of a width of 400.
        x_axis: range of the x axis; None for that of the lines.
        y_axis: range of the y axis; None for that of the lines. What lies outside of it is cut off.
        level: a value to mark by a horizontal line, and its name for who cannot see it.
        moment: an x to mark by a vertical line, and its name.
    """

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    height: int = 240
    x_axis: Axis | None = None
    y_axis: Axis | None = None
    level: tuple[float, str] | None = None
    moment: tuple[float, str] | None = None


def dash(index: int) -> str:
    """Return the dash pattern of a line; empty for a solid one."""
    return "" if index == NEUTRAL else DASHES[index // COLOURS % len(DASHES)]


def tone(index: int) -> str:
    """Return the class that colours a line."""
    return "neutral" if index == NEUTRAL else f"c{index % COLOURS}"


def describe(chart: Chart) -> str:
    """Say in words what a chart shows: for each line its first, last, least and greatest value."""
    parts = []
    for line in chart.lines:
        values = [y for _, y in line.points]
        if values:
            first, last, low, high = (number(v) for v in (values[0], values[-1], min(values), max(values)))
            parts.append(f"{line.name}: from {first} to {last}, least {low}, greatest {high}")
    marks = [f"{name} at {number(value)}" for value, name in filter(None, (chart.level, chart.moment))]
    return f"{chart.y_label} by {chart.x_label}. " + "; ".join(parts + marks) + "."


def draw(chart: Chart, ident: str) -> str:
    """Return the chart as an SVG element.

    Args:
        chart: see Chart.
        ident: prefix of the element's ids, used once a page.
    """
    return _Drawing(chart).element(ident)


class _Drawing:
    """One picture: where values lie in it, and the elements that they become."""

    def __init__(self, chart: Chart) -> None:
        self.chart = chart
        points = [point for line in chart.lines for point in line.points]
        self.x = chart.x_axis or _tight(points)
        level = [chart.level[0]] if chart.level else []
        self.y = chart.y_axis or fit([*(y for _, y in points), *level])
        self.right, self.bottom = WIDTH - RIGHT, chart.height - BOTTOM

    def element(self, ident: str) -> str:
        title, text = escape(self.chart.title), escape(describe(self.chart))
        faint = "".join(self._path(n.faint, f"faint {tone(n.colour)}", "") for n in self.chart.lines if n.faint)
        if faint:
            box = f'x="{LEFT}" y="{TOP}" width="{self.right - LEFT}" height="{self.bottom - TOP}"'
            faint = f'<clipPath id="{ident}-c"><rect {box}/></clipPath><g clip-path="url(#{ident}-c)">{faint}</g>'
        lines = [self._line(line) for line in self.chart.lines]
        return (
            f'<svg viewBox="0 0 {WIDTH} {self.chart.height}" role="img" aria-labelledby="{ident}-t {ident}-d">'
            f'<title id="{ident}-t">{title}</title><desc id="{ident}-d">{text}</desc>'
            + "".join([*self._axes(), faint, *lines, *self._level(), *self._moment()])
            + "</svg>"
        )

    def across(self, x: float) -> float:
        return LEFT + self.x.share(x) * (self.right - LEFT)

    def down(self, y: float) -> float:
        # Far enough to be cut off, and no further.
        return self.bottom - min(max(self.y.share(y), -1.0), 2.0) * (self.bottom - TOP)

    def _axes(self) -> list[str]:
        found = []
        for value in self.y.ticks(max(2, (self.bottom - TOP) // 34)):
            y = self.down(value)
            found.append(f'<path class="rung" d="M{LEFT} {y:.1f}H{self.right}"/>')
            found.append(_text(LEFT - 6, y + 4, number(value), "end"))
        for value in self.x.ticks(5):
            x = self.across(value)
            found.append(f'<path class="tick" d="M{x:.1f} {self.bottom}v4"/>')
            label = number(value)
            middle = min(x, WIDTH - _CHARACTER * len(label) / 2 - 2)  # the last one must not be cut off
            found.append(_text(middle, self.bottom + 16, label, "middle"))
        found.append(f'<path class="axis" d="M{LEFT} {self.bottom}H{self.right}"/>')
        found.append(_text(4, 13, self.chart.y_label, "start", "label"))
        found.append(_text((LEFT + self.right) / 2, self.chart.height - 5, self.chart.x_label, "middle", "label"))
        return found

    def _level(self) -> list[str]:
        if self.chart.level is None:
            return []
        return [f'<path class="mark" d="M{LEFT} {self.down(self.chart.level[0]):.1f}H{self.right}"/>']

    def _moment(self) -> list[str]:
        if self.chart.moment is None:
            return []
        value, name = self.chart.moment
        x = self.across(value)
        before = x + _CHARACTER * len(name) > self.right
        label = _text(x - 4 if before else x + 4, TOP - 2, name, "end" if before else "start", "note")
        return [f'<path class="mark" d="M{x:.1f} {TOP - 8}V{self.bottom}"/>', label]

    def _line(self, line: Line) -> str:
        colour = tone(line.colour)
        kind = f"line {colour} strong" if line.strong else f"line {colour}"
        found = self._path(line.points, kind, dash(line.colour))
        if line.dots or len(line.points) == 1:
            found += "".join(self._dot(line, x, y) for x, y in line.points)
        return found

    def _dot(self, line: Line, x: float, y: float) -> str:
        hint = escape(f"{line.name}: {number(y)} ({self.chart.x_label} {number(x)})")
        place = f'cx="{self.across(x):.1f}" cy="{self.down(y):.1f}"'
        radius = 3.2 if line.strong else 2.4
        return f'<circle class="dot {tone(line.colour)}" {place} r="{radius}"><title>{hint}</title></circle>'

    def _path(self, points: Points, kind: str, dashes: str) -> str:
        places = " ".join(f"{self.across(x):.1f},{self.down(y):.1f}" for x, y in points)
        style = f' stroke-dasharray="{dashes}"' if dashes else ""
        return f'<polyline class="{kind}"{style} points="{places}"/>'


def _tight(points: Points) -> Axis:
    """Return the range of x without room at its ends."""
    xs = [x for x, _ in points] or [0.0]
    return Axis(min(xs), max(xs)) if max(xs) > min(xs) else Axis(min(xs) - 1, max(xs) + 1)


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text{style} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
