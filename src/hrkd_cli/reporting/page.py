"""The page: a comparison if there are several runs, then each run's facts, charts and exported files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hrkd_cli.formatting import duration, percent, plural
from hrkd_cli.reporting.charts import Chart, number
from hrkd_cli.reporting.run import Run
from hrkd_cli.version import __version__

MARK = "<!-- hrkd report -->"
"""Near the top of every page: a file with it may be replaced."""
MOST_DOTS = 100
"""Dev scores that are marked by dots; with more of them only the line is drawn."""
LOSS_SHARE, RATIO_SHARE = 0.02, 0.06
"""Of the steps, that a smoothed value is the mean of; the ratios of a frozen graph flicker from step to step."""


def page(runs: Sequence[Run]) -> str:
    """Return the whole page, which loads nothing from elsewhere and runs no scripts."""
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": percent, "number": number, "duration": duration}
    drawn = (comparison, dev_scores, losses, rates, domain_ratios, layer_ratios, latency)
    charts = {function.__name__: function for function in drawn}
    return str(environment.get_template("page.html.j2").render(mark=MARK, version=__version__, runs=runs, **charts))


def comparison(runs: Sequence[Run]) -> Chart:
    """Return the average dev accuracy of all runs, named by their folders, or by their paths if two have one name."""
    distinct = len({run.name for run in runs}) == len(runs)
    names = [run.name if distinct else str(run.path) for run in runs]
    scores = pd.concat([run.scores("accuracy").mean(axis=1) for run in runs], axis=1, keys=names)
    last = max(run.last_step for run in runs)
    return Chart("Dev accuracy, average of domains", "step", "accuracy, %", scores, last, dots=True)


def dev_scores(run: Run) -> list[Chart]:
    """Return the dev accuracy by domain, and macro-F1 where it selects the best step."""
    charts = []
    for key, label in (("accuracy", "accuracy"), ("macro_f1", "macro-F1")):
        if run.best and key in ("accuracy", run.metric):
            scores = run.scores(key)
            lines = pd.concat([scores, scores.mean(axis=1).rename("average")], axis=1)
            chart = Chart(f"Dev {label} by domain", "step", f"{label}, %", lines, run.last_step, mean=True)
            moment = (run.best["step"], f"best: step {run.best['step']:,}")
            charts.append(replace(chart, dots=len(run.dev) <= MOST_DOTS, moment=moment))
    return charts


def losses(run: Run) -> list[Chart]:
    """Return the losses by kind."""
    return [_single(run, f"Loss: {kind}", "loss", values, LOSS_SHARE) for kind, values in run.losses.items()]


def rates(run: Run) -> list[Chart]:
    """Return learning rate, gradient norm and speed."""
    shown = (
        ("learning_rate", "Learning rate", "learning rate", 0.0),
        ("gradient_norm", "Gradient norm, before clipping", "norm", LOSS_SHARE),
        ("examples_per_second", "Speed, over 20 steps", "examples/s", 0.0),
    )
    return [
        _single(run, title, unit, run.steps[name], share) for name, title, unit, share in shown if name in run.steps
    ]


def domain_ratios(run: Run) -> list[Chart]:
    """Return how much each domain counts in a student layer's loss."""
    tables = run.layers("ratios")
    names = run.domains or [f"domain {n + 1}" for table in tables[:1] for n in table]
    return _by_layer(run, [table.set_axis(names, axis=1) for table in tables], first=0)


def layer_ratios(run: Run) -> list[Chart]:
    """Return what each layer's prototypes are mixed from."""
    return _by_layer(run, [table.rename(columns=_layer_name) for table in run.layers("layer_ratios")], first=1)


def latency(run: Run) -> list[Chart]:
    """Return latency by number of tokens, one chart for each number of threads."""
    entries = [entry for entry in run.exported.values() if entry.get("latency")]
    cells = [{"precision": str(entry.get("precision")), **cell} for entry in entries for cell in entry["latency"]]
    charts = []
    for threads, part in pd.DataFrame(cells).groupby("threads") if cells else ():
        times = part.pivot_table("p50", "tokens", "precision", sort=False)
        title = f"Median latency, {plural(threads, 'thread')}"
        charts.append(Chart(title, "tokens of the text", "milliseconds", times, dots=True))
    return charts


def _single(run: Run, title: str, unit: str, values: Any, share: float) -> Chart:
    """Return the chart of one value of the steps, where it is a finite number, smoothed over a share of them."""
    values = pd.to_numeric(values, errors="coerce")
    data = values[np.isfinite(values)].to_frame()
    return Chart(title, "step", unit, data, run.last_step, _window(run, share), may_be_log=True)


def _by_layer(run: Run, tables: Sequence[pd.DataFrame], *, first: int) -> list[Chart]:
    """Return one chart for each student layer, all on one scale."""
    window = _window(run, RATIO_SHARE)
    charts = [
        Chart(_layer_name(n).capitalize(), "step", "ratio", table, run.last_step, window, level=1 / table.shape[1])
        for n, table in enumerate(tables, start=first)
    ]
    drawn = np.concatenate([[], *(chart.smooth.to_numpy().ravel() for chart in charts)])
    room = 0.1 * np.ptp(drawn) or 0.1 if charts else 0.0
    return [replace(chart, limits=(drawn.min() - room, drawn.max() + room)) for chart in charts]


def _window(run: Run, share: float) -> int:
    """Return how many steps a share of them is; odd, so that a mean is over as many before a step as after it."""
    return round(share * len(run.steps)) | 1


def _layer_name(layer: int) -> str:
    return "embedding" if layer == 0 else f"layer {layer}"
