"""The head of a run's part of the page: what it is, what it was made with, how it went."""

from __future__ import annotations

import os.path
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hrkd_cli.reporting import html
from hrkd_cli.reporting.axis import number
from hrkd_cli.reporting.run import DISTILL, Run

_FINGERPRINT = 12  # characters that are shown of one


def heading(run: Run) -> str:
    """Return what the run is, in a line."""
    kind = "Distillation" if run.stage == DISTILL else "Teacher"
    return f"{kind}: {run.name}" if run.finished else f"{kind} (not finished): {run.name}"


def head(run: Run) -> str:
    """Return the most important figures, then everything that is known of the run."""
    return html.facts(_figures(run), big=True) + html.facts(_facts(run)) + _options(run)


def best_scores(run: Run) -> str:
    """Return the best dev scores by domain; empty before the first."""
    best = run.best
    if best is None:
        return ""
    rows = [_score_row(name, scores, str(scores.get("n", ""))) for name, scores in best.domains.items()]
    rows.append(_score_row("average", best.average, ""))
    columns = ("domain", "rows", "accuracy, %", "95 % interval", "macro-F1, %")
    said = "The dev split chose this step, so its scores are a little too good: hrkd eval scores the test split."
    return html.box(f"Best dev scores: step {best.step:,}", html.table(columns, rows, last=True) + html.paragraph(said))


def percent(share: Any) -> str:
    """Write a share in percent; nothing where there is none."""
    return f"{100 * share:.1f}" if isinstance(share, int | float) else ""


def _figures(run: Run) -> list[tuple[str, str]]:
    best, results = run.best, run.record.get("results") or {}
    return [
        ("best dev accuracy, average", f"{percent(best.average.get('accuracy'))} %" if best else ""),
        ("best step", f"{best.step:,}" if best else ""),
        ("steps" if run.finished else "steps so far", f"{run.metrics.last_step:,}"),
        ("epochs" if run.finished else "epochs so far", number(round(run.metrics.epoch, 2))),
        ("time", html.duration(results["seconds"]) if "seconds" in results else ""),
        ("examples/s", number(results.get("examples_per_second", 0.0)) if results else _last_speed(run)),
    ]


def _facts(run: Run) -> list[tuple[str, str]]:
    record = run.record
    models, data = record.get("models") or {}, record.get("data") or {}
    found = [("status", "finished" if run.finished else "under way, or cut off")]
    found += [(what, _model(run, what, entry)) for what, entry in models.items()]
    found += [
        ("data", _place(run, data)),
        ("data fingerprint", str(data.get("fingerprint", ""))[:_FINGERPRINT]),
        ("domains", ", ".join(run.metrics.domains)),
        ("arithmetic", str(record.get("precision", ""))),
        ("last written", f"{run.written:%Y-%m-%d %H:%M %Z}"),
    ]
    return found


def _options(run: Run) -> str:
    if not run.options:
        return ""
    changed = run.changed_options()
    known = html.paragraph("Options other than the defaults:" if changed else "All options have their defaults.")
    chips = html.chips([f"{_flag(name)} {_value(value)}" for name, value in changed.items()])
    given = run.record.get("options") or {}
    rows = [
        (_flag(name), _value(value), str(given.get(name, {}).get("from", ""))) for name, value in run.options.items()
    ]
    everything = html.details("All options", html.table(("option", "value", "from"), rows, words=(0, 1, 2)))
    versions = [f"{name} {version}" for name, version in (run.record.get("versions") or {}).items()]
    made = html.paragraph(f"Versions: {', '.join(versions)}.") if versions else ""
    return known + chips + made + everything


def _score_row(name: str, scores: Mapping[str, Any], rows: str) -> tuple[str, ...]:
    low, high = scores.get("interval") or (None, None)
    interval = f"{percent(low)} to {percent(high)}" if low is not None else ""
    return name, rows, percent(scores.get("accuracy")), interval, percent(scores.get("macro_f1"))


def _model(run: Run, what: str, entry: Mapping[str, Any]) -> str:
    name = entry.get("name")
    if name is None and what == "student":
        start = run.options.get("init")
        return f"default shape, from {'random weights' if start == 'random' else 'the teacher'}"
    mark = str(entry.get("fingerprint", ""))[:_FINGERPRINT]
    return f"{name} ({mark})" if mark else str(name)


def _place(run: Run, data: Mapping[str, Any]) -> str:
    """Return where the data lies: its path is written relative to the run's folder."""
    path = data.get("path")
    return "" if path is None else Path(os.path.normpath(run.path / str(path))).as_posix()


def _last_speed(run: Run) -> str:
    speed = run.metrics.rates.get("examples_per_second")
    return number(speed.y[-1]) if speed else ""


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if isinstance(value, float) else "-" if value is None else str(value)
