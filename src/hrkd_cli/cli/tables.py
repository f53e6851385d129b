"""What each command shows for people, as plain tables built from its JSON result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hrkd_cli.formatting import byte_size, duration, megabytes, percent, plural, thousands
from hrkd_cli.layout import SPLITS

Json = Mapping[str, Any]
Row = tuple[str, ...]

_FLOOR = "linear floor"


@dataclass(frozen=True, slots=True)
class Table:
    """Cells to show. A row of one cell heads a section; ``words`` are the columns that start at the left."""

    title: str
    columns: Row
    rows: Sequence[Row]
    words: tuple[int, ...] = (0,)


def prepared(result: Json) -> list[Table]:
    """Rows by domain and split."""
    domains: Mapping[str, Json] = result["domains"]
    rows: list[Row] = []
    for name, entry in domains.items():
        labels = ", ".join(f"{label} {thousands(count)}" for label, count in entry["labels"].items())
        rows.append((name, *(thousands(entry[split]) for split in SPLITS), labels))
    rows.append(("total", *(thousands(sum(entry[split] for entry in domains.values())) for split in SPLITS)))
    return [Table("Rows", ("domain", *SPLITS, "labels"), rows, words=(0, 4))]


def trained(result: Json) -> list[Table]:
    """The dev scores of the step that was kept, by domain, and how long the run took."""
    best = result["best"]
    scores = {**best["dev"]["domains"], "average": best["dev"]["average"]}
    rows = [(name, _accuracy(entry), percent(entry.get("macro_f1"))) for name, entry in scores.items()]
    title = (
        f"Best step: {thousands(best['step'])} of {thousands(result['steps'])}; {duration(result['seconds'])}, "
        f"{result['examples_per_second']:.1f} examples/s"
    )
    return [Table(title, ("dev", "accuracy, %  [95 % interval]", "macro-F1, %"), rows)]


# Figures of a model as a whole; a row that no model has a figure for is left out.
_FIGURES: dict[str, Callable[[Json], str]] = {
    "  agreement with the first, %": lambda m: percent(m.get("agreement")),
    "  parameters": lambda m: thousands(m.get("parameters") or None),
    "  size, MB": lambda m: megabytes(m.get("bytes")),
    "  accuracy padded in batches, %": lambda m: percent((m.get("padded") or {}).get("accuracy")),
    "  labels that padding changes, %": lambda m: percent((m.get("padded") or {}).get("disagreement"), digits=2),
    "  latency p50, ms": lambda m: f"{m['latency_ms']['p50']:.2f}" if m.get("latency_ms") else "-",
    "  latency p95, ms": lambda m: f"{m['latency_ms']['p95']:.2f}" if m.get("latency_ms") else "-",
}


def compared(result: Json) -> list[Table]:
    """Models in columns, figures in rows; then latency by length and scores by label, where they were asked for."""
    models: Sequence[Json] = result["models"]
    counts = {name: entry["n"] for model in models for name, entry in model["domains"].items()}
    sized = {name: f"{name} ({thousands(count)})" for name, count in counts.items()}
    rows: list[Row] = [("accuracy, %  [95 % interval]",)]
    rows += _score_rows(models, sized, _accuracy)
    rows.append(("macro-F1, %",))
    rows += _score_rows(models, {name: name for name in counts}, lambda scores: percent(scores.get("macro_f1")))
    rows.append(("model",))
    figures = [(name, *map(cell, models)) for name, cell in _FIGURES.items()]
    rows += [row for row in figures if set(row[1:]) != {"-"}]
    title = f"Split: {result['split']}"
    if timed := next((model["latency_ms"] for model in models if model.get("latency_ms")), None):
        threads, tokens = plural(timed["threads"], "thread"), plural(timed["tokens"], "token")
        title += f"; latency with batch {timed.get('batch', 1)}, {threads}, {tokens}"
    tables = [Table(title, ("", *map(_heading, models)), rows)]
    tables += by_length(result, [(_heading(m), m.get("latency", ())) for m in models if not _is_floor(m)])
    return tables + _by_label(models)


def floor_lines(result: Json) -> list[str]:
    """Say in one line that a small model is hardly better than the floor, if so.

    The small model is the first with fewer parameters than the first model, which is usually its teacher.
    """
    models = [model for model in result["models"] if not _is_floor(model)]
    floor = next((model for model in result["models"] if _is_floor(model)), None)
    if floor is None:
        return []
    largest = models[0]
    small = next((m for m in models if (m.get("parameters") or 0) < (largest.get("parameters") or 0)), largest)
    own, linear = small["average"], floor["average"]["accuracy"]
    if own["interval"][0] > linear:
        return []
    points = 100 * (own["accuracy"] - linear)
    what = f"is {abs(points):.1f} points {'below' if points < 0 else 'above'} a linear model on these data"
    unsure = "" if points < 0 else ", less than its 95 % interval shows"
    advice = "try a larger --max-length, another --truncate, more epochs or a larger student"
    return [f"{small['model']} {what}{unsure}: {advice}"]


def by_length(result: Json, models: Sequence[tuple[str, Sequence[Json]]]) -> list[Table]:
    """Return a table of latencies, one column per model; none where nothing was timed."""
    figures = [{(f["tokens"], f["threads"]): f"{f['p50']:.2f} / {f['p95']:.2f}" for f in found} for _, found in models]
    cells = next((list(found) for found in figures if found), [])
    rows = [(str(cell[0]), str(cell[1]), *(found.get(cell, "-") for found in figures)) for cell in cells]
    title = f"Milliseconds of a forward pass, p50 / p95, batch 1, on {result.get('machine', 'this machine')}"
    return [Table(title, ("tokens", "threads", *(name for name, _ in models)), rows, words=())] if rows else []


def exported(result: Json) -> list[Table]:
    """The files, what was tried for them, where their bytes are, what was quantized, and how long they take."""
    files: Sequence[Json] = result["files"]
    rows: list[Row] = [(f["path"], f["precision"], megabytes(f["bytes"])) for f in files]
    tables = [Table("Files", ("file", "precision", "MB"), rows, words=(0, 1))]
    if tries := result.get("tries"):
        rows = []
        for entry in tries:
            outcome = "kept" if entry["kept"] else "passed" if entry["passed"] else "FAILED"
            drop = f"{entry['drop']:.2f}"
            rows.append((entry["precision"], entry["recipe"], megabytes(entry["bytes"]), drop, outcome))
        title = f"Recipes tried, int8 for {result['target']}" if result.get("target") else "Recipes tried"
        columns = ("precision", "recipe", "MB", "points lost on dev", "gate")
        tables.append(Table(title, columns, rows, words=(0, 1, 4)))
    if parts := result.get("bytes_by_part"):
        smallest = min(files, key=lambda f: f["bytes"])["precision"] if files else "smallest"
        tables.append(facts(f"The {smallest} file, by part", {name: byte_size(count) for name, count in parts.items()}))
    if operators := result.get("quantized_ops"):
        tables.append(facts("Quantized operators", operators))
    if vocabulary := result.get("vocabulary"):
        tables.append(facts("Vocabulary", {**vocabulary, "accuracy_drop": f"{vocabulary['accuracy_drop']:.2f}"}))
    return tables + by_length(result, [(f["precision"], f.get("latency", ())) for f in files])


def gate_lines(result: Json) -> list[str]:
    """Say in one line whether the accuracy gate was passed."""
    gate = result.get("gate")
    if not gate or gate.get("drop") is None:
        return []
    verdict = "passed" if gate["passed"] else "FAILED"
    moved = f"{'fell' if gate['drop'] >= 0 else 'rose'} by {abs(gate['drop']):.2f} points"
    return [f"Gate {verdict}: dev accuracy {moved}; a fall of {gate['max_drop']:g} is allowed."]


def reported(result: Json) -> list[Table]:
    """The runs that a report shows."""
    rows = []
    for run in result["runs"]:
        best = run["best"] or {}
        state = "finished" if run["finished"] else "not finished"
        scores = (thousands(best.get("step")), percent(best.get("accuracy")))
        rows.append((run["run"], run["stage"], state, thousands(run["steps"]), *scores))
    columns = ("run", "stage", "", "steps", "best step", "dev accuracy, %")
    return [Table("Runs", columns, rows, words=(0, 1, 2))]


def facts(title: str, found: Json, words: tuple[int, ...] = (0,)) -> Table:
    """Names and values under the JSON's own keys, indented where these are nested."""
    return Table(title, ("", ""), list(_fact_rows(found)), words)


def _fact_rows(found: Json, indent: str = "") -> Iterator[Row]:
    for name, value in found.items():
        if isinstance(value, Mapping):
            yield (indent + name,)
            yield from _fact_rows(value, indent + "  ")
        else:
            yield indent + name, _fact(value)


def _fact(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return thousands(value) if isinstance(value, int) else "-" if value is None else str(value)


def _is_floor(model: Json) -> bool:
    return bool(model.get("kind") == "floor")


def _heading(model: Json) -> str:
    return f"{_FLOOR}\n" if _is_floor(model) else f"{model['model']}\n{model['precision']}"


def _accuracy(scores: Json) -> str:
    interval = scores.get("interval")
    around = f"  [{percent(interval[0])}, {percent(interval[1])}]" if interval else ""
    return percent(scores.get("accuracy")) + around


def _score_rows(models: Sequence[Json], domains: Mapping[str, str], cell: Callable[[Json], str]) -> list[Row]:
    """Return a score of each domain, under its label, and the average."""
    rows: list[Row] = []
    for name, label in domains.items():
        rows.append((f"  {label}", *(cell(model["domains"].get(name, {})) for model in models)))
    return [*rows, ("  average", *(cell(model["average"]) for model in models))]


def _by_label(models: Sequence[Json]) -> list[Table]:
    rows: list[Row] = []
    for model in models:
        if len(models) > 1:
            rows.append((_FLOOR if _is_floor(model) else f"{model['model']} ({model['precision']})",))
        for domain, entry in model["domains"].items():
            for label, scores in entry.get("labels", {}).items():
                figures = (percent(scores[name]) for name in ("precision", "recall", "f1"))
                rows.append((domain, label, thousands(scores["support"]), *figures))
    columns = ("domain", "label", "rows", "precision, %", "recall, %", "F1, %")
    return [Table("By label", columns, rows, words=(0, 1))] if any(len(row) > 1 for row in rows) else []
