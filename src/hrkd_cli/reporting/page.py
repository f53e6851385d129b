"""The HTML page: a comparison of several runs, then the results, mistakes, charts and options of each run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hrkd_cli.formatting import duration, percent, plural
from hrkd_cli.layout import REPORT_MARKER
from hrkd_cli.reporting.charts import Chart, format_number
from hrkd_cli.reporting.model_comparison import ComparedModel, compare_models
from hrkd_cli.reporting.run import Run
from hrkd_cli.version import __version__

MAX_LABELS = 10  # labels of a confusion matrix; with more, the most frequent confusions are listed
MIN_ANSWERS = 10  # answers of a point of the reliability diagram
SHOWN_MISTAKES = 10  # mistakes and confusions that are shown at once
LOSSES = {
    "hidden": "hidden states of student and teacher",
    "attention": "their attention scores",
    "prediction": "their predictions",
    "label": "predictions and true labels",
    "domain": "domains found and true domains",
    "retention": "answers for old domains before and after",
}  # what each loss compares
MAX_DOTS = 100  # maximum number of dev scores drawn as dots; if there are more, only the line is drawn
LOSS_WINDOW, RATIO_WINDOW = 0.02, 0.06
"""Smoothing windows as fractions of the steps; the ratios of a frozen graph vary a lot from step to step."""


def render_page(runs: Sequence[Run]) -> str:
    """Return the page, which is self-contained and has no scripts."""
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": percent, "number": format_number, "duration": duration}
    functions = (compare_models, confusions, comparison, certainty, dev_scores, losses, optimization, domain_ratios)
    names = {function.__name__: function for function in (*functions, layer_ratios, latency)}
    constants = {name: globals()[name] for name in ("LOSSES", "MAX_LABELS", "MIN_ANSWERS", "SHOWN_MISTAKES")}
    template = environment.get_template("page.html.j2")
    return str(template.render(marker=REPORT_MARKER, version=__version__, runs=runs, **names, **constants))


def confusions(entry: Mapping[str, Any]) -> dict[str, dict[str, dict[str, int]]]:
    """Return the confusion matrices of an entry of ``eval.json`` by title: answers, without zeros, by true label."""
    domains = {
        domain: {label: counts["answers"] for label, counts in scores["labels"].items() if counts["answers"]}
        for domain, scores in entry["domains"].items()
    }
    return domains | ({"domain found": entry["found_domains"]} if entry.get("found_domains") else {})


def certainty(models: Sequence[ComparedModel]) -> list[Chart]:
    """Return the reliability diagram and the risk-coverage curve of the evaluated models."""
    reliability, coverage = {}, {}
    for model in models:
        if confidence := model.entry.get("confidence"):
            bins = confidence["bins"]
            reliability[model.name] = pd.Series(
                {
                    100 * (min(int(entry["confidence"] * bins), bins - 1) + 0.5) / bins: 100 * entry["accuracy"]
                    for entry in confidence["reliability"]
                    if entry["n"] >= MIN_ANSWERS
                }
            )
            coverage[model.name] = pd.Series(
                {100 * entry["coverage"]: 100 * entry["accuracy"] for entry in confidence["risk_coverage"]}
            )
    if not coverage:
        return []
    percent_right = "of these right, %"
    reliable, covered = (pd.concat(lines, axis=1).sort_index() for lines in (reliability, coverage))
    return [
        Chart("Are answers right as often as stated?", "stated probability, %", percent_right, reliable, 100,
              diagonal=True, dots=True),
        Chart("Accuracy of the most certain answers", "most certain answers, %", percent_right, covered, 100),
    ]  # fmt: skip


def comparison(runs: Sequence[Run]) -> Chart:
    """Return the chart of average dev accuracy, with one line per run."""
    has_unique_names = len({run.name for run in runs}) == len(runs)
    names = [run.name if has_unique_names else str(run.path) for run in runs]
    scores = pd.concat([run.scores("accuracy").mean(axis=1) for run in runs], axis=1, keys=names)
    scores = scores.sort_index()  # dev scores of the runs may be of different steps
    last_step = max(run.last_step for run in runs)
    return Chart("Dev accuracy, average of domains", "step", "accuracy, %", scores, last_step, dots=True)


def dev_scores(run: Run) -> list[Chart]:
    """Return the chart of dev accuracy by domain, and of macro-F1 if that selects the best step."""
    charts = []
    for key, label in (("accuracy", "accuracy"), ("macro_f1", "macro-F1")):
        if run.best and key in ("accuracy", run.metric):
            scores = run.scores(key)
            lines = pd.concat([scores, scores.mean(axis=1).rename("average")], axis=1)
            chart = Chart(f"Dev {label} by domain", "step", f"{label}, %", lines, run.last_step, mean=True)
            best = (run.best["step"], f"best: step {run.best['step']:,}")
            charts.append(replace(chart, dots=len(run.dev) <= MAX_DOTS, vertical=best))
    return charts


def losses(run: Run) -> list[Chart]:
    """Return one chart per loss."""
    return [_step_chart(run, f"Loss: {name}", "loss", values, LOSS_WINDOW) for name, values in run.losses.items()]


def optimization(run: Run) -> list[Chart]:
    """Return the charts of learning rate, gradient norm and speed."""
    charts = (
        ("learning_rate", "Learning rate", "learning rate", 0.0),
        ("gradient_norm", "Gradient norm, before clipping", "norm", LOSS_WINDOW),
        ("examples_per_second", "Speed, over 20 steps", "examples/s", 0.0),
    )
    return [
        _step_chart(run, title, unit, run.steps[name], fraction)
        for name, title, unit, fraction in charts
        if name in run.steps
    ]


def domain_ratios(run: Run) -> list[Chart]:
    """Return one chart per student layer of the weight of each domain in its loss."""
    tables = []
    for table in run.layers("ratios"):
        # Unknown before the first dev score, and of another number in damaged metrics.
        are_known = len(run.domains) == table.shape[1]
        tables.append(table.set_axis(run.domains if are_known else [f"domain {n + 1}" for n in table], axis=1))
    return _by_layer(run, tables, first=0)


def layer_ratios(run: Run) -> list[Chart]:
    """Return one chart per student layer of the weights that mix its prototypes from lower layers."""
    return _by_layer(run, [table.rename(columns=_layer_name) for table in run.layers("layer_ratios")], first=1)


def latency(run: Run) -> list[Chart]:
    """Return one chart per number of threads of latency by number of tokens."""
    entries = [entry for entry in run.exported.values() if entry.get("latency")]
    rows = [{"precision": str(entry.get("precision")), **row} for entry in entries for row in entry["latency"]]
    charts = []
    for threads, group in pd.DataFrame(rows).groupby("threads") if rows else ():
        times = group.pivot_table("p50", "tokens", "precision", sort=False)
        title = f"Median latency, {plural(threads, 'thread')}"
        charts.append(Chart(title, "tokens of the text", "milliseconds", times, x_log=True, dots=True))
    return charts


def _step_chart(run: Run, title: str, unit: str, values: Any, fraction: float) -> Chart:
    """Return the chart of the finite values of a metric by step, smoothed over a fraction of the steps."""
    values = pd.to_numeric(values, errors="coerce")
    data = values[np.isfinite(values)].to_frame()
    return Chart(title, "step", unit, data, run.last_step, _window(run, fraction), may_be_log=True)


def _by_layer(run: Run, tables: Sequence[pd.DataFrame], *, first: int) -> list[Chart]:
    """Return one chart per student layer, starting with layer ``first``, all with the same y axis."""
    window = _window(run, RATIO_WINDOW)
    charts = [
        Chart(_layer_name(n).capitalize(), "step", "ratio", table, run.last_step, window, horizontal=1 / table.shape[1])
        for n, table in enumerate(tables, start=first)
    ]
    if not charts:
        return []
    values = np.concatenate([chart.smooth.to_numpy().ravel() for chart in charts])
    margin = 0.1 * np.ptp(values) or 0.1
    return [replace(chart, limits=(values.min() - margin, values.max() + margin)) for chart in charts]


def _window(run: Run, fraction: float) -> int:
    """Return the number of steps in a smoothing window; odd, so that the window is centered."""
    return round(fraction * len(run.steps)) | 1


def _layer_name(layer: int) -> str:
    return "embedding" if layer == 0 else f"layer {layer}"
