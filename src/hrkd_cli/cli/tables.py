"""What each command shows for people, as plain tables built from its JSON result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hrkd_cli.cli.units import duration, percent, plural, size, thousands

Json = Mapping[str, Any]
Row = tuple[str, ...]

_FLOOR = "linear floor"
PLACES_A_REASON = 3
"""Dropped rows that are shown with file and line; the others are counted."""


@dataclass(frozen=True, slots=True)
class Table:
    """Cells to show.

    Attributes:
        title: line above the table; empty for none.
        columns: headings; a line end in one makes it two lines high.
        rows: cells; a row of one cell heads a section.
        words: columns that hold words, which start at the left; numbers end at the right.
    """

    title: str
    columns: Row
    rows: Sequence[Row]
    words: tuple[int, ...] = (0,)


def to_text(table: Table) -> str:
    """Return a table as aligned text without drawing characters, fit for a pipe, a log or an e-mail."""
    headings = [heading.split("\n") for heading in table.columns]
    height = max(len(lines) for lines in headings)
    # Headings stand at the bottom of their cells, next to the numbers.
    above = list(zip(*([""] * (height - len(lines)) + lines for lines in headings), strict=True))
    # A section's head may run into the next columns, which are empty beside it.
    full = [row for row in (*above, *table.rows) if len(row) == len(table.columns)]
    widths = [max(len(row[i]) for row in full) for i in range(len(table.columns))]

    def line(row: Row) -> str:
        pairs = enumerate(zip(row, widths, strict=False))  # a section's head has fewer cells
        cells = [cell.ljust(width) if i in table.words else cell.rjust(width) for i, (cell, width) in pairs]
        return "  ".join(cells).rstrip()

    title = [table.title] if table.title else []
    rule = ["  ".join("-" * width for width in widths)] if any(table.columns) else []
    return "\n".join([*title, *(line(row) for row in above if any(row)), *rule, *(line(row) for row in table.rows)])


def option(name: str, value: Path, default: Path) -> str:
    """Return `` --name value`` for a hint, or nothing where the default will do."""
    return "" if value == default else f" {name} {value}"


def prepared(result: Json, examples: Mapping[str, Sequence[str]]) -> list[Table]:
    """Rows by domain and split, and what was dropped.

    Args:
        result: the JSON result of prepare.
        examples: for a reason, the places (``file:line``) of the first rows dropped for it.
    """
    splits = ("train", "dev", "test")
    domains: Mapping[str, Json] = result["domains"]
    rows: list[Row] = [
        (name, *(thousands(entry[split]) for split in splits), _labels(entry["labels"]))
        for name, entry in domains.items()
    ]
    rows.append(("total", *(thousands(sum(entry[split] for entry in domains.values())) for split in splits), ""))
    found = [Table("Rows", ("domain", *splits, "labels"), rows, words=(0, 4))]
    dropped = {reason: count for reason, count in result["dropped"].items() if count}
    if dropped:
        lost = [(reason, thousands(n), _places(examples.get(reason, ()), n)) for reason, n in dropped.items()]
        found.append(Table("Dropped", ("reason", "rows", "first places"), lost, words=(0, 2)))
    return found


def _places(places: Sequence[str], count: int) -> str:
    shown = places[:PLACES_A_REASON]
    return ", ".join(shown) + (", ..." if count > len(shown) else "")


def _labels(labels: Any) -> str:
    if isinstance(labels, Mapping):
        return ", ".join(f"{name} {thousands(n)}" if isinstance(n, int) else str(name) for name, n in labels.items())
    return ", ".join(str(name) for name in labels)


def trained(result: Json) -> list[Table]:
    """The dev scores of the step that was kept, by domain, and how long the run took."""
    best = result["best"]
    scores = {**best["dev"]["domains"], "average": best["dev"]["average"]}
    rows = [(name, _accuracy(entry), _share(entry.get("macro_f1"))) for name, entry in scores.items()]
    title = (
        f"Best step: {thousands(best['step'])} of {thousands(result['steps'])}; {duration(result['seconds'])}, "
        f"{result['examples_per_second']:.1f} examples/s"
    )
    return [Table(title, ("dev", "accuracy, %  [95 % interval]", "macro-F1, %"), rows)]


def compared(result: Json) -> list[Table]:
    """Models side by side: a column a model, a row a figure; and a table of the labels where they were asked for."""
    models: Sequence[Json] = result["models"]
    domains = list(dict.fromkeys(name for model in models for name in model["domains"]))
    rows: list[Row] = [("accuracy, %  [95 % interval]",)]
    for name in domains:
        rows.append(
            _across(f"  {name}{_count(models, name)}", models, lambda m, d=name: _accuracy(m["domains"].get(d)))
        )
    rows.append(_across("  average", models, lambda m: _accuracy(m["average"])))
    rows.append(("macro-F1, %",))
    rows += [_across(f"  {d}", models, lambda m, d=d: _share(m["domains"].get(d, {}).get("macro_f1"))) for d in domains]
    rows.append(_across("  average", models, lambda m: _share(m["average"]["macro_f1"])))
    rows.append(("model",))
    rows += _model_rows(models)
    columns = ("", *(_heading(model) for model in models))
    tables = [Table(f"Split: {result['split']}", columns, rows)]
    title = f"Milliseconds of a forward pass, p50 / p95, batch 1, on {result.get('machine', 'this machine')}"
    tables += by_length(title, [(_heading(m), m.get("latency", ())) for m in models if not _is_floor(m)])
    if any("labels" in entry for model in models for entry in model["domains"].values()):
        tables.append(_by_label(models))
    return tables


def floor_lines(result: Json) -> list[str]:
    """Say in one line that a small model is hardly better than the floor; nothing where it is, or without a floor.

    The small model is the first with fewer parameters than the first model, which is usually its teacher; else the
    first model.
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
    if points < 0:
        what = f"is {-points:.1f} points below a linear model on these data"
    else:
        what = f"is {points:.1f} points above a linear model on these data, less than its 95 % interval shows"
    return [f"{small['model']} {what}: try a larger --max-length, another --truncate, more epochs or a larger student"]


def _is_floor(model: Json) -> bool:
    return bool(model.get("kind") == "floor")


def _heading(model: Json) -> str:
    return f"{_FLOOR}\n" if _is_floor(model) else f"{model['model']}\n{model['precision']}"


def by_length(title: str, models: Sequence[tuple[str, Sequence[Json]]]) -> list[Table]:
    """Return a table of latencies, a column a model; none where nothing was timed."""
    cells = [(f["tokens"], f["threads"]) for f in next((found for _, found in models if found), ())]
    figures = [{(f["tokens"], f["threads"]): f for f in found} for _, found in models]
    rows: list[Row] = []
    for cell in cells:
        shown = (f"{f[cell]['p50']:.2f} / {f[cell]['p95']:.2f}" if cell in f else "-" for f in figures)
        rows.append((str(cell[0]), str(cell[1]), *shown))
    return [Table(title, ("tokens", "threads", *(name for name, _ in models)), rows, words=())] if rows else []


def _model_rows(models: Sequence[Json]) -> list[Row]:
    figures: list[Row] = [
        _across("  agreement with the first, %", models, lambda m: _share(m.get("agreement"))),
        _across("  parameters", models, lambda m: thousands(m["parameters"]) if m.get("parameters") else "-"),
        _across("  size, MB", models, lambda m: f"{m['bytes'] / 1e6:.1f}" if m.get("bytes") else "-"),
    ]
    if any(model.get("padded") for model in models):
        figures += [
            _across(
                "  accuracy padded in batches, %", models, lambda m: _share((m.get("padded") or {}).get("accuracy"))
            ),
            _across(
                "  labels that padding changes, %",
                models,
                lambda m: _share((m.get("padded") or {}).get("disagreement"), digits=2),
            ),
        ]
    measured = next((model["latency_ms"] for model in models if model.get("latency_ms")), None)
    if measured:
        threads, tokens = measured["threads"], measured["tokens"]
        what = f"batch {measured.get('batch', 1)}, {plural(threads, 'thread')}, {plural(tokens, 'token')}"
        figures.append((f"latency, ms  ({what})",))
        for name in ("p50", "p95"):
            figures.append(_across(f"  {name}", models, lambda m, n=name: _milliseconds(m.get("latency_ms"), n)))
    return figures


def _across(name: str, models: Sequence[Json], cell: Any) -> Row:
    return (name, *(cell(model) for model in models))


def _count(models: Sequence[Json], domain: str) -> str:
    return next((f" ({thousands(m['domains'][domain]['n'])})" for m in models if domain in m["domains"]), "")


def _accuracy(scores: Json | None) -> str:
    if not scores:
        return "-"
    interval = scores.get("interval")
    around = f"  [{percent(interval[0])}, {percent(interval[1])}]" if interval else ""
    return percent(scores["accuracy"]) + around


def _share(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else percent(value, digits)


def _milliseconds(latency: Json | None, name: str) -> str:
    return f"{latency[name]:.2f}" if latency else "-"


def _by_label(models: Sequence[Json]) -> Table:
    rows: list[Row] = []
    for model in models:
        if len(models) > 1:
            rows.append((_FLOOR if _is_floor(model) else f"{model['model']} ({model['precision']})",))
        for domain, entry in model["domains"].items():
            rows += [
                (
                    domain,
                    label,
                    thousands(scores["support"]),
                    *(percent(scores[name]) for name in ("precision", "recall", "f1")),
                )
                for label, scores in entry.get("labels", {}).items()
            ]
    return Table("By label", ("domain", "label", "rows", "precision, %", "recall, %", "F1, %"), rows, words=(0, 1))


def exported(result: Json) -> list[Table]:
    """The files, what was tried for them, where their bytes are, what was quantised, and how long they take."""
    files: list[Row] = [(f["path"], f["precision"], f"{f['bytes'] / 1e6:.1f}") for f in result["files"]]
    tables = [Table("Files", ("file", "precision", "MB"), files, words=(0, 1))]
    if tries := result.get("tries"):
        tables.append(_tried(tries, result.get("target", "")))
    if parts := result.get("bytes_by_part"):
        rows = [(name, size(count)) for name, count in parts.items()]
        smallest = min(result["files"], key=lambda f: f["bytes"])["precision"] if result["files"] else "smallest"
        tables.append(Table(f"The {smallest} file, by part", ("part", "size"), rows))
    if operators := result.get("quantized_ops"):
        tables.append(Table("Quantised operators", ("operator", "count"), [(k, str(v)) for k, v in operators.items()]))
    title = f"Milliseconds of a forward pass, p50 / p95, batch 1, on {result.get('machine', 'this machine')}"
    return tables + by_length(title, [(f["precision"], f.get("latency", ())) for f in result["files"]])


def _tried(tries: Sequence[Json], target: str) -> Table:
    rows = []
    for entry in tries:
        outcome = "kept" if entry["kept"] else "passed" if entry["passed"] else "FAILED"
        size_mb, drop = f"{entry['bytes'] / 1e6:.1f}", f"{entry['drop']:.2f}"
        rows.append((entry["precision"], entry["recipe"], size_mb, drop, outcome))
    title = f"Recipes tried, int8 for {target}" if target else "Recipes tried"
    return Table(title, ("precision", "recipe", "MB", "points lost on dev", "gate"), rows, words=(0, 1, 4))


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
        step = thousands(best["step"]) if best else "-"
        rows.append((run["run"], run["stage"], state, thousands(run["steps"]), step, _share(best.get("accuracy"))))
    columns = ("run", "stage", "", "steps", "best step", "dev accuracy, %")
    return [Table("Runs", columns, rows, words=(0, 1, 2))]


def machine(found: Json) -> Table:
    """Versions and machine."""
    cpu = found["cpu"]
    rows: list[Row] = [("hrkd-cli", found["hrkd-cli"]), ("python", found["python"]), ("platform", found["platform"])]
    rows += [(name, version or "not installed") for name, version in found["packages"].items()]
    rows += [
        ("cpu", cpu["name"]),
        ("cores", f"{cpu['usable_cores']} of {cpu['cores']}"),
        ("instructions", " ".join(cpu["instructions"]) or "unknown"),
        ("memory", size(found["memory_bytes"]) if found["memory_bytes"] else "unknown"),
    ]
    rows += [(f"device {entry['device']}", entry["name"]) for entry in found["devices"]]
    return Table("", ("", ""), rows, words=(0, 1))
