"""The page: a comparison if there are several runs, then each run's facts, charts and exported files."""

from __future__ import annotations

import os.path
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from hrkd_cli import __version__
from hrkd_cli.layout import ONNX
from hrkd_cli.reporting.charts import NEUTRAL, Chart, Line, number, smooth, smoothing_window, spans_decades
from hrkd_cli.reporting.run import TOTAL, Run, Series

MARK = "<!-- hrkd report -->"
"""Near the top of every page: a file with it may be replaced."""
MOST_DOTS = 100
"""Dev scores that are marked by dots; with more of them only the line is drawn."""
LOSS_SHARE, RATIO_SHARE = 0.02, 0.06
"""Of the steps, that a smoothed value is the mean of; the ratios of a frozen graph flicker from step to step."""
SMALL, MEDIUM, LARGE = 220, 240, 280
RATES = {
    "learning_rate": ("Learning rate", "learning rate"),
    "gradient_norm": ("Gradient norm, before clipping", "norm"),
    "examples_per_second": ("Speed, over 20 steps", "examples/s"),
}


@dataclass(frozen=True, slots=True)
class Section:
    """A titled part of the page: charts with one legend; ``mark`` says what dashed gray lines are."""

    title: str
    note: str
    charts: Sequence[Chart]
    legend: Sequence[Line] = ()
    mark: str = ""
    small: bool = False


def page(runs: Sequence[Run]) -> str:
    """Return the whole page, which loads nothing from elsewhere and runs no scripts."""
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    filters = {"percent": percent, "points": points, "mean": fmean, "number": number, "duration": duration}
    environment.filters |= {**filters, "value": _value}
    functions = {"sections": sections, "latency": latency, "exported": exported, "data_path": _data_path}
    template = environment.get_template("page.html.j2")
    return str(template.render(mark=MARK, version=__version__, runs=runs, compared=_compare(runs), **functions))


def sections(run: Run) -> list[Section]:
    """Return the charts of a run over its steps; what was not recorded is left out."""
    found = [_dev(run), _losses(run), _rates(run), _ratios(run), _layer_ratios(run)]
    return [section for section in found if section.charts]


def percent(share: Any) -> str:
    """Write a share in percent; nothing for None."""
    return f"{100 * share:.1f}" if isinstance(share, int | float) else ""


def points(share: Any, base: float) -> str:
    """Write the change from a base in percentage points; nothing for None."""
    change = 100 * (share - base) if isinstance(share, int | float) else None
    return "" if change is None else f"{change:+.2f}" if abs(change) >= 0.005 else "0.00"


def duration(seconds: float) -> str:
    """Return ``45 s``, ``12 min 05 s`` or ``3 h 20 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _dev(run: Run) -> Section:
    best, charts = run.best, []
    for key, label in (("accuracy", "accuracy"), ("macro_f1", "macro-F1")):
        if run.dev and key in ("accuracy", run.metric):
            lines = [_scores(run, key, domain, style) for style, domain in enumerate(run.domains)]
            lines.append(_scores(run, key, None, NEUTRAL))
            chart = Chart(f"Dev {label} by domain", "step", f"{label}, %", lines, LARGE, x_end=run.last_step)
            moment = (float(best.step), f"best: step {best.step:,}") if best else None
            charts.append(replace(chart, dots=len(run.dev) <= MOST_DOTS, moment=moment))
    count = f"{len(run.dev):,} dev score{'s' if len(run.dev) > 1 else ''}"
    note = f"{count}; the vertical line marks the step whose weights are kept."
    return Section("Dev scores", note, charts, legend=charts[0].lines if charts else ())


def _losses(run: Run) -> Section:
    kinds = sorted(run.losses, key=lambda kind: kind != TOTAL)  # the total first, the rest as recorded
    charts = [
        _single(run, f"Loss: {kind}", "loss", smooth(kind, run.losses[kind], style, LOSS_SHARE))
        for style, kind in enumerate(kinds)
    ]
    parts = " Weighted as in the total; each on a scale of its own." if charts[1:] else ""
    return Section("Losses", _smoothing(run, LOSS_SHARE) + parts, charts)


def _rates(run: Run) -> Section:
    charts = []
    for kind, series in run.rates.items():
        title, unit = RATES[kind]
        line = Line(title, series, NEUTRAL)
        line = smooth(title, series, NEUTRAL, LOSS_SHARE) if kind == "gradient_norm" else line
        charts.append(_single(run, title, unit, line, SMALL))
    return Section("Optimization", "", charts, small=True)


def _single(run: Run, title: str, unit: str, line: Line, height: int = MEDIUM) -> Chart:
    return Chart(title, "step", unit, [line], height, x_end=run.last_step, log=spans_decades(line))


def _ratios(run: Run) -> Section:
    """One chart for each student layer, all on one scale."""
    count = 1 + max((domain for _, domain in run.ratios), default=0)
    names = run.domains if len(run.domains) == count else tuple(f"domain {n + 1}" for n in range(count))
    charts = _layers(run, run.ratios, names, {layer: 1 / count for layer, _ in run.ratios})
    values = [y for chart in charts for line in chart.lines for y in line.points.y]
    if values:
        low, high = min(values), max(values)
        room = 0.1 * (high - low) or 0.1
        charts = [replace(chart, limits=(low - room, high + room)) for chart in charts]
    note = f"How much each domain counts in a student layer's loss. {_smoothing(run, RATIO_SHARE)}"
    legend, mark = charts[-1].lines if charts else (), f"1/{count}, all domains alike"
    return Section("Domain ratios by layer", note, charts, legend, mark, small=True)


def _layer_ratios(run: Run) -> Section:
    names = [_layer_name(n) for n in range(1 + max((mixed for _, mixed in run.layer_ratios), default=0))]
    charts = _layers(run, run.layer_ratios, names, {layer: 1 / (layer + 1) for layer, _ in run.layer_ratios})
    note = f"What each layer's prototypes are mixed from, mean over domains. {_smoothing(run, RATIO_SHARE)}"
    return Section("Layer ratios", note, charts, charts[-1].lines if charts else (), "all layers alike", small=True)


def _layers(
    run: Run, found: Mapping[tuple[int, int], Series], names: Sequence[str], levels: Mapping[int, float]
) -> list[Chart]:
    charts = []
    for layer, level in sorted(levels.items()):
        lines = [smooth(names[n], series, n, RATIO_SHARE) for (own, n), series in found.items() if own == layer]
        title = _layer_name(layer).capitalize()
        charts.append(Chart(title, "step", "ratio", lines, SMALL, x_end=run.last_step, level=level))
    return charts


def latency(run: Run) -> Section:
    """Return latency by number of tokens, one chart for each number of threads."""
    timed = [entry for entry in exported(run).values() if entry.get("latency")]
    charts = []
    for threads in sorted({cell["threads"] for entry in timed for cell in entry["latency"]}):
        lines = []
        for style, entry in enumerate(timed):
            cells = [cell for cell in entry["latency"] if cell["threads"] == threads]
            points = _series((cell["tokens"], cell["p50"]) for cell in cells)
            lines.append(Line(str(entry.get("precision")), points, style))
        title = f"Median latency, {threads} thread{'s' if threads > 1 else ''}"
        charts.append(Chart(title, "tokens of the text", "milliseconds", lines, dots=True))
    machines = " and ".join(dict.fromkeys(str(entry["machine"]) for entry in timed if "machine" in entry))
    note = f"A forward pass, batch 1, on {machines}." if machines else "A forward pass, batch 1."
    return Section("Latency", note, charts, charts[0].lines if charts else ())


def exported(run: Run) -> dict[str, dict[str, Any]]:
    """Return the exported files by name, the fp32 file first."""
    return dict(sorted(run.exported.items(), key=lambda item: (item[0] != ONNX.fp32, item[0])))


def _compare(runs: Sequence[Run]) -> Section:
    """Average dev accuracy of all runs, named by their folders, or by their paths if two folders have one name."""
    names = [run.name for run in runs]
    names = names if len(set(names)) == len(names) else [str(run.path) for run in runs]
    lines = [_scores(run, "accuracy", None, style) for style, run in enumerate(runs)]
    lines = [replace(line, name=name) for line, name in zip(lines, names, strict=True)]
    last = max(run.last_step for run in runs)
    chart = Chart("Dev accuracy, average of domains", "step", "accuracy, %", lines, LARGE, x_end=last, dots=True)
    return Section("", "", [chart] if any(line.points.x for line in lines) else [], lines)


def _scores(run: Run, key: str, domain: str | None, style: int) -> Line:
    """Return a domain's dev scores in percent; their average for None."""
    rows = [(s.step, s.average if domain is None else s.domains.get(domain, {})) for s in run.dev]
    points = _series((step, 100.0 * scores[key]) for step, scores in rows if key in scores)
    return Line("average" if domain is None else domain, points, style)


def _series(points: Iterable[tuple[float, float]]) -> Series:
    found = Series()
    for x, y in points:
        found.x.append(x)
        found.y.append(y)
    return found


def _smoothing(run: Run, share: float) -> str:
    width = smoothing_window(run.steps, share)
    return f"Line: mean over {width} steps; faint: each step." if width > 1 else "Each step is shown."


def _layer_name(layer: int) -> str:
    return "embedding" if layer == 0 else f"layer {layer}"


def _data_path(run: Run) -> str:
    """Return where the data is: its path is written relative to the run's folder."""
    path = (run.record.get("data") or {}).get("path")
    return "" if path is None else Path(os.path.normpath(run.path / str(path))).as_posix()


def _value(value: Any) -> str:
    """Write the value of an option."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if isinstance(value, float) else "-" if value is None else str(value)
