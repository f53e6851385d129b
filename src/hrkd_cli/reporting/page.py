"""The page: its frame, a comparison where there are several runs, and each run's parts."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from hrkd_cli import __version__
from hrkd_cli.reporting import facts, html
from hrkd_cli.reporting.axis import Axis, number
from hrkd_cli.reporting.chart import Chart, Line
from hrkd_cli.reporting.curves import Curves, count_lines, shown_scores
from hrkd_cli.reporting.exported import exported
from hrkd_cli.reporting.run import Run
from hrkd_cli.reporting.style import CSS

MARK = "<!-- hrkd report -->"
"""Near the top of every page: a file with it may be replaced."""


def page(runs: Sequence[Run]) -> str:
    """Return the whole page, which loads nothing from elsewhere.

    Args:
        runs: at least one.
    """
    lines = sum(map(count_lines, runs))
    parts = [_run(run, f"r{index}", lines) for index, run in enumerate(runs)]
    title = facts.heading(runs[0]) if len(runs) == 1 else f"{len(runs)} runs compared"
    return (
        f'<!doctype html>\n{MARK}\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        # Nothing that a name could smuggle in would be run or fetched.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{CSS}</style></head>\n<body><main>\n"
        + (_compared(runs) if len(runs) > 1 else "")
        + "\n".join(parts)
        + f"\n<footer>Written by hrkd-cli {escape(__version__)} from metrics.jsonl and hrkd.json.</footer>"
        "</main></body></html>\n"
    )


def _run(run: Run, ident: str, lines: int) -> str:
    curves = Curves(run, ident, lines)
    parts = [
        facts.head(run),
        curves.dev(),
        curves.losses(),
        curves.rates(),
        curves.ratios(),
        curves.layer_ratios(),
        exported(run, ident),
    ]
    title = f'<h1>{escape(facts.heading(run))}</h1><p class="lead">{escape(str(run.path))}</p>'
    return f'<article class="run">{title}{"".join(parts)}</article>'


def _compared(runs: Sequence[Run]) -> str:
    """Average dev accuracy of all runs in one chart, and their best scores in one table."""
    names = _distinct(runs)
    lines = [
        Line(
            name,
            [(float(s.step), 100.0 * s.average["accuracy"]) for s in shown_scores(run) if "accuracy" in s.average],
            index,
            dots=True,
        )
        for index, (name, run) in enumerate(zip(names, runs, strict=True))
    ]
    last = Axis(0.0, float(max(1, *(run.metrics.last_step for run in runs))))
    chart = Chart("Dev accuracy, average of domains", "step", "accuracy, %", lines, height=280, x_axis=last)
    values = html.values_table("step", names, [line.points for line in lines])
    table = html.box("Best dev accuracy, %", html.table(("", *names), _best_rows(runs), last=True))
    drawn = [html.figure(chart, "all", values)] if any(line.points for line in lines) else []
    key = html.legend([(name, index) for index, name in enumerate(names)])
    title = f"<h1>{len(runs)} runs compared</h1>"
    return f'<article class="run">{title}{key}{html.grid([*drawn, table])}</article>\n'


def _best_rows(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """Return a row a figure, a column a run."""
    best = [run.best for run in runs]
    domains = dict.fromkeys(domain for run in runs for domain in run.metrics.domains)
    rows = [
        ("stage", *(run.stage for run in runs)),
        ("steps", *(number(run.metrics.last_step) for run in runs)),
        ("best step", *(number(score.step) if score else "" for score in best)),
    ]
    for domain in domains:
        found = (score.domains.get(domain, {}) if score else {} for score in best)
        rows.append((domain, *(facts.percent(scores.get("accuracy")) for scores in found)))
    average = (facts.percent(score.average.get("accuracy")) if score else "" for score in best)
    return [*rows, ("average", *average)]


def _distinct(runs: Sequence[Run]) -> list[str]:
    """Name runs by their folders, or by their paths where two folders have one name."""
    names = [run.name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.path) for run in runs]
