"""The page: a comparison if there are several runs, then each run's facts, charts and exported files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from hrkd_cli.formatting import duration, percent
from hrkd_cli.reporting.charts import NEUTRAL, Chart, Line, number, smooth, smoothing_window, spans_decades
from hrkd_cli.reporting.run import Array, Run
from hrkd_cli.version import __version__

MARK = "<!-- hrkd report -->"
"""Near the top of every page: a file with it may be replaced."""
MOST_DOTS = 100
"""Dev scores that are marked by dots; with more of them only the line is drawn."""
LOSS_SHARE, RATIO_SHARE = 0.02, 0.06
"""Of the steps, that a smoothed value is the mean of; the ratios of a frozen graph flicker from step to step."""
RATES = {
    "learning_rate": ("Learning rate", "learning rate", 0.0),
    "gradient_norm": ("Gradient norm, before clipping", "norm", LOSS_SHARE),
    "examples_per_second": ("Speed, over 20 steps", "examples/s", 0.0),
}
"""Title, unit and share of the steps to smooth over."""


@dataclass(frozen=True, slots=True)
class Section:
    """A titled part of the page: charts with one legend; ``mark`` says what dashed gray lines are."""

    title: str
    note: str
    charts: Sequence[Chart]
    mark: str = ""
    small: bool = False

    @property
    def legend(self) -> Sequence[Line]:
        """The lines of the last chart, which may have one more than those before; none where titles name them."""
        last = self.charts[-1] if self.charts else None
        return last.lines if last and (last.dots or len(last.lines) > 1) else ()


def page(runs: Sequence[Run]) -> str:
    """Return the whole page, which loads nothing from elsewhere and runs no scripts."""
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": percent, "points": _points, "mean": fmean, "number": number}
    environment.filters |= {"duration": duration, "value": _value}
    template = environment.get_template("page.html.j2")
    functions = {"sections": sections, "latency": latency}
    return str(template.render(mark=MARK, version=__version__, runs=runs, compared=_compare(runs), **functions))


def sections(run: Run) -> list[Section]:
    """Return the charts of a run over its steps; what was not recorded is left out."""
    found = [_dev(run), _losses(run), _rates(run), _ratios(run), _layer_ratios(run)]
    return [section for section in found if section.charts]


def latency(run: Run) -> Section:
    """Return latency by number of tokens, one chart for each number of threads."""
    timed = [entry for entry in run.exported.values() if entry.get("latency")]
    charts = []
    for threads in sorted({cell["threads"] for entry in timed for cell in entry["latency"]}):
        lines = []
        for style, entry in enumerate(timed):
            cells = [cell for cell in entry["latency"] if cell["threads"] == threads]
            tokens, times = (np.array([cell[key] for cell in cells], dtype=float) for key in ("tokens", "p50"))
            lines.append(Line(str(entry.get("precision")), tokens, times, style))
        title = f"Median latency, {threads} thread{'s' if threads > 1 else ''}"
        charts.append(Chart(title, "tokens of the text", "milliseconds", lines, dots=True))
    machines = " and ".join(dict.fromkeys(str(entry["machine"]) for entry in timed if "machine" in entry))
    note = f"A forward pass, batch 1, on {machines}." if machines else "A forward pass, batch 1."
    return Section("Latency", note, charts)


def _dev(run: Run) -> Section:
    best, charts = run.best, []
    for key, label in (("accuracy", "accuracy"), ("macro_f1", "macro-F1")):
        if best and key in ("accuracy", run.metric):
            lines = [_scores(run, key, domain, style) for style, domain in enumerate(run.domains)]
            lines.append(_scores(run, key, None, NEUTRAL))
            chart = Chart(f"Dev {label} by domain", "step", f"{label}, %", lines, x_end=run.last_step)
            moment = (float(best["step"]), f"best: step {best['step']:,}")
            charts.append(replace(chart, dots=len(run.dev) <= MOST_DOTS, moment=moment))
    count = f"{len(run.dev):,} dev score{'s' if len(run.dev) > 1 else ''}"
    note = f"{count}; the vertical line marks the step whose weights are kept."
    return Section("Dev scores", note, charts)


def _losses(run: Run) -> Section:
    lines = [smooth(kind, *run.series("losses", kind), style, LOSS_SHARE) for style, kind in enumerate(run.losses)]
    charts = [_single(run, f"Loss: {line.name}", "loss", line) for line in lines if len(line.x)]
    parts = " Weighted as in the total; each on a scale of its own." if charts[1:] else ""
    return Section("Losses", _smoothing(run, LOSS_SHARE) + parts, charts)


def _rates(run: Run) -> Section:
    charts = []
    for kind, (title, unit, share) in RATES.items():
        line = smooth(title, *run.series(kind), NEUTRAL, share)
        charts += [_single(run, title, unit, line)] if len(line.x) else []
    return Section("Optimization", "", charts, small=True)


def _single(run: Run, title: str, unit: str, line: Line) -> Chart:
    return Chart(title, "step", unit, [line], x_end=run.last_step, log=spans_decades(line.y))


def _ratios(run: Run) -> Section:
    layers = run.layers("ratios")
    count = layers[0][1].shape[1] if layers else 0
    names = run.domains if len(run.domains) == count else [f"domain {n + 1}" for n in range(count)]
    note = f"How much each domain counts in a student layer's loss. {_smoothing(run, RATIO_SHARE)}"
    charts = _by_layer(run, layers, names, first=0)
    return Section("Domain ratios by layer", note, charts, f"1/{count}, all domains alike", small=True)


def _layer_ratios(run: Run) -> Section:
    layers = run.layers("layer_ratios")
    names = [_layer_name(n) for n in range(len(layers) + 1)]
    note = f"What each layer's prototypes are mixed from, mean over domains. {_smoothing(run, RATIO_SHARE)}"
    return Section("Layer ratios", note, _by_layer(run, layers, names, first=1), "all layers alike", small=True)


def _by_layer(run: Run, layers: Sequence[tuple[Array, Array]], names: Sequence[str], *, first: int) -> list[Chart]:
    """Return one chart for each student layer, all on one scale."""
    charts = []
    for layer, (x, values) in enumerate(layers, start=first):
        lines = [smooth(names[n], x, own, n, RATIO_SHARE) for n, own in enumerate(values.T)]
        title = _layer_name(layer).capitalize()
        charts.append(Chart(title, "step", "ratio", lines, x_end=run.last_step, level=1 / len(lines)))
    if not charts:
        return []
    drawn = np.concatenate([line.y for chart in charts for line in chart.lines])
    room = 0.1 * np.ptp(drawn) or 0.1
    return [replace(chart, limits=(float(drawn.min() - room), float(drawn.max() + room))) for chart in charts]


def _compare(runs: Sequence[Run]) -> Section:
    """Average dev accuracy of all runs, named by their folders, or by their paths if two folders have one name."""
    distinct = len({run.name for run in runs}) == len(runs)
    lines = []
    for style, run in enumerate(runs):
        name = run.name if distinct else str(run.path)
        lines.append(replace(_scores(run, "accuracy", None, style), name=name))
    last = max(run.last_step for run in runs)
    return Section("", "", [Chart("Dev accuracy, average of domains", "step", "accuracy, %", lines, last, dots=True)])


def _scores(run: Run, key: str, domain: str | None, style: int) -> Line:
    """Return a domain's dev scores in percent; their average for None."""
    scored = [(dev["step"], dev["average"] if domain is None else dev["domains"].get(domain, {})) for dev in run.dev]
    found = [(step, 100.0 * scores[key]) for step, scores in scored if key in scores]
    x, y = np.array(found, dtype=float).reshape(-1, 2).T
    return Line("average" if domain is None else domain, x, y, style)


def _smoothing(run: Run, share: float) -> str:
    width = smoothing_window(len(run.steps), share)
    return f"Line: mean over {width} steps; faint: each step." if width > 1 else "Each step is shown."


def _layer_name(layer: int) -> str:
    return "embedding" if layer == 0 else f"layer {layer}"


def _points(share: float | None, base: float) -> str:
    """Write the change from a base in percentage points; nothing for None."""
    change = 0 if share is None else 100 * (share - base)
    return "" if share is None else f"{change:+.2f}" if abs(change) >= 0.005 else "0.00"


def _value(value: Any) -> str:
    """Write the value of an option."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if isinstance(value, float) else "-" if value is None else str(value)
