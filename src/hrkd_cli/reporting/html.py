"""Pieces of the page. Every text that comes from outside is escaped here or in ``chart``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from hrkd_cli.reporting.axis import number
from hrkd_cli.reporting.chart import Chart, dash, draw, tone
from hrkd_cli.reporting.series import Points

Row = Sequence[str]


def table(columns: Row, rows: Iterable[Row], *, words: Sequence[int] = (0,), last: bool = False) -> str:
    """Return a table that scrolls sideways by itself where the screen is too narrow.

    Args:
        columns: headings.
        rows: cells; the first of each heads the row.
        words: columns that hold words, which start at the left.
        last: whether the last row sums up the others.
    """

    def cell(kind: str, index: int, text: str, scope: str = "") -> str:
        side = "" if index in words else ' class="n"'
        return f"<{kind}{scope}{side}>{escape(text)}</{kind}>"

    head = "".join(cell("th", i, text, ' scope="col"') for i, text in enumerate(columns))
    body = "".join(
        "<tr>"
        + "".join(cell("td", i, t) if i else cell("th", i, t, ' scope="row"') for i, t in enumerate(row))
        + "</tr>"
        for row in rows
    )
    kind = ' class="sums"' if last else ""
    content = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="wide" tabindex="0"><table{kind}>{content}</table></div>'


def details(summary: str, content: str) -> str:
    """Return something that opens when asked for."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def legend(names: Sequence[tuple[str, int]], *, mark: str = "") -> str:
    """Return the names of lines beside a piece of each.

    Args:
        names: with the index of their colour and dash.
        mark: what dashed grey lines are; empty where there are none.
    """
    items = [f"<li>{_sample(f'line {tone(i)}', dash(i))}{escape(name)}</li>" for name, i in names]
    items += [f"<li>{_sample('mark', '')}{escape(mark)}</li>"] if mark else []
    return f'<ul class="legend">{"".join(items)}</ul>'


def figure(chart: Chart, ident: str, values: str) -> str:
    """Return a chart under its title, with its values as a table behind it.

    Args:
        chart: see Chart.
        ident: prefix of its ids, used once a page.
        values: a table.
    """
    title = escape(chart.title)
    return f"<figure><figcaption>{title}</figcaption>{draw(chart, ident)}{details('Values', values)}</figure>"


def chips(texts: Sequence[str]) -> str:
    """Return short texts, each in a frame of its own; nothing where there are none."""
    return f'<ul class="chips">{"".join(f"<li>{escape(text)}</li>" for text in texts)}</ul>' if texts else ""


def box(title: str, content: str) -> str:
    """Return content under a title, framed as a figure is."""
    return f'<div class="box"><h3>{escape(title)}</h3>{content}</div>'


def values_table(first: str, names: Sequence[str], columns: Sequence[Points]) -> str:
    """Return values of several lines at the same x, a row an x."""
    rows: dict[float, list[str]] = {}
    for index, points in enumerate(columns):
        for x, y in points:
            rows.setdefault(x, [""] * len(columns))[index] = number(y)
    ordered = sorted(rows.items())
    return table((first, *names), [(number(x), *cells) for x, cells in ordered], words=())


def facts(items: Iterable[tuple[str, str]], *, big: bool = False) -> str:
    """Return names with their values; those without a value are left out."""
    found = [f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in items if value]
    return f'<dl class="facts{" big" if big else ""}">{"".join(found)}</dl>'


def section(title: str, content: str, *, note: str = "") -> str:
    """Return a titled part of the page."""
    said = f'<p class="note-text">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>{said}{content}</section>"


def subtitle(text: str) -> str:
    """Return a title within a section."""
    return f"<h3>{escape(text)}</h3>"


def paragraph(text: str) -> str:
    """Return a paragraph."""
    return f"<p>{escape(text)}</p>"


def grid(figures: Sequence[str], *, small: bool = False) -> str:
    """Return figures beside and below each other, as many a row as the screen holds."""
    return f'<div class="grid{" small" if small else ""}">{"".join(figures)}</div>'


def duration(seconds: float) -> str:
    """Return ``45 s``, ``12 min 05 s`` or ``3 h 20 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _sample(kind: str, dashes: str) -> str:
    style = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<svg class="sample" viewBox="0 0 24 8" aria-hidden="true"><path class="{kind}"{style} d="M0 4H24"/></svg>'
