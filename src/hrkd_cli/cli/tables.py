"""Tables of a command's JSON result, for output without ``--json``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hrkd_cli.formatting import byte_size, duration, megabytes, percent, plural, thousands
from hrkd_cli.layout import SPLITS

Json = Mapping[str, Any]
Row = tuple[str, ...]
RUNTIMES = {"torch": "torch", "onnx": "onnxruntime"}  # by kind of model

_ADVICE = "try more labeled or unlabeled texts, a larger --max-length, a larger student or a better teacher"


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text cells. A row of one cell is a section heading; columns not in ``left_aligned`` align right."""

    title: str
    columns: Row
    rows: Sequence[Row]
    left_aligned: tuple[int, ...] = (0,)


def prepare_tables(result: Json) -> list[Table]:
    """Return the number of rows of each domain and split, their length, and the rows of each label."""
    domains: Mapping[str, Json] = result["domains"]
    rows: list[Row] = []
    for name, entry in domains.items():
        labels = ", ".join(f"{label} {thousands(count)}" for label, count in entry["labels"].items())
        characters = "{median:,} / {p95:,}".format(**result["characters"][name])
        rows.append((name, *(thousands(entry[split]) for split in SPLITS), characters, labels))
    rows.append(("total", *(thousands(sum(entry[split] for entry in domains.values())) for split in SPLITS)))
    return [Table("Rows", ("domain", *SPLITS, "characters (median / 95%)", "labels"), rows, left_aligned=(0, 5))]


def training_tables(result: Json) -> list[Table]:
    """Return the dev scores of the best step, with the duration of the run as title."""
    best = result["best"]
    scores = {**best["dev"]["domains"], "average": best["dev"]["average"]}
    rows = [(name, _format_accuracy(entry), percent(entry.get("macro_f1"))) for name, entry in scores.items()]
    title = (
        f"Best step: {thousands(best['step'])} of {thousands(result['steps'])}; {duration(result['seconds'])}, "
        f"{result['examples_per_second']:.1f} examples/s"
    )
    tables = [Table(title, ("dev", "accuracy, %  [95% interval]", "macro-F1, %"), rows)]
    if old := result.get("old_domains"):
        by = {
            "labels": "dev labels",
            "student": "the old student's probabilities",
            "other domains": "those, on other domains",
        }
        columns = ("old domain", "texts", "before, %", "after, %", "according to")
        cells = [(d, thousands(e["n"]), percent(e["before"]), percent(e["after"]), by[e["by"]]) for d, e in old.items()]
        tables.append(Table("Accuracy of the old domains", columns, cells, left_aligned=(0, 4)))
    return tables


def baseline_note(result: Json) -> str | None:
    """Return by how much a student's dev accuracy differs from that of the linear baselines; None if there are none."""
    accuracy, baselines = result["best"]["dev"]["average"]["accuracy"], result.get("baselines")
    if not baselines:
        return None
    margins = {name: 100 * (accuracy - other) for name, other in baselines.items()}
    comparison = ", ".join(f"{_describe_margin(margin)} {name}" for name, margin in margins.items())
    advice = "" if accuracy == 1 or min(margins.values()) > 0 else f"; {_ADVICE}"
    return f"dev accuracy {percent(accuracy)}%: {comparison}{advice}"


def _describe_margin(margin: float) -> str:
    """Return a difference in points in words, without what it is compared with."""
    if round(margin, 1) == 0:
        return "equal to"
    return f"{abs(margin):.1f} points {'above' if margin > 0 else 'below'}"


_SURE = 0.95  # probability of an answer that makes another label a likely error
_TEXT_START = 60  # characters of a text in a note
_MOST_CONFUSED = 10  # domains in a table of their confusion


def _format_confidence(model: Json, name: str, form: str, factor: float = 1.0) -> str:
    """Return a value of ``confidence``, and the one without calibration in brackets."""
    confidence = model.get("confidence") or {}
    values = [entry[name] for entry in (confidence, confidence.get("uncalibrated") or {}) if name in entry]
    texts = [format(factor * value, form) for value in values]
    return "  ".join([*texts[:1], *(f"[{text}]" for text in texts[1:])]) or "-"


def _format_difference(difference: Json | None) -> str:
    """Return a difference of accuracies in points, with its interval."""
    if difference is None:
        return "-"
    low, high = difference["interval"]
    return f"{100 * difference['accuracy']:+.1f}  [{100 * low:+.1f}, {100 * high:+.1f}]"


# Values of a whole model. A row without a value for any model is omitted.
_MODEL_ROWS: dict[str, Callable[[Json], str]] = {
    "  minus the first  [95% interval]": lambda m: _format_difference(m.get("difference")),
    "  agreement with the first, %": lambda m: percent(m.get("agreement")),
    "  domain found, %": lambda m: percent(m.get("domain_accuracy")),
    "  calibration error, %  [before]": lambda m: _format_confidence(m, "ece", ".1f", 100),
    "  Brier score  [before]": lambda m: _format_confidence(m, "brier", ".3f"),
    "  parameters": lambda m: thousands(m.get("parameters") or None),
    "  size, MB": lambda m: megabytes(m.get("bytes")),
    "  accuracy padded in batches, %": lambda m: percent((m.get("padded") or {}).get("accuracy")),
    "  labels that padding changes, %": lambda m: percent((m.get("padded") or {}).get("disagreement"), digits=2),
    "  latency p50, ms": lambda m: f"{m['latency_ms']['p50']:.2f}" if m.get("latency_ms") else "-",
    "  latency p95, ms": lambda m: f"{m['latency_ms']['p95']:.2f}" if m.get("latency_ms") else "-",
}


def eval_tables(result: Json) -> list[Table]:
    """Return scores with one column per model, then latency by length and scores by label, if measured."""
    models: Sequence[Json] = result["models"]
    counts = {name: entry["n"] for model in models for name, entry in model["domains"].items()}
    with_counts = {name: f"{name} ({thousands(count)})" for name, count in counts.items()}
    rows: list[Row] = [("accuracy, %  [95% interval]",)]
    rows += _domain_rows(models, with_counts, _format_accuracy)
    rows.append(("macro-F1, %",))
    rows += _domain_rows(models, {name: name for name in counts}, lambda scores: percent(scores.get("macro_f1")))
    rows.append(("model",))
    model_rows = [(name, *map(cell, models)) for name, cell in _MODEL_ROWS.items()]
    rows += [row for row in model_rows if set(row[1:]) != {"-"}]
    title = f"Split: {result['split']}" + ("; domain unknown" if result.get("domain") == "auto" else "")
    if timed := next((model["latency_ms"] for model in models if model.get("latency_ms")), None):
        threads, tokens = plural(timed["threads"], "thread"), plural(timed["tokens"], "token")
        title += f"; latency with batch {timed.get('batch', 1)}, {threads}, {tokens}"
    tables = [Table(title, ("", *map(_heading, models)), rows)]
    tables += latency_tables(
        result,
        [(f"{_heading(m)}, {RUNTIMES[m['kind']]}", m.get("latency", ())) for m in models if not _is_linear_baseline(m)],
    )
    return (
        tables + _coverage_tables(models) + _cascade_tables(result) + _confusion_tables(models) + _label_tables(models)
    )


def _coverage_tables(models: Sequence[Json]) -> list[Table]:
    """Return the share of texts that are answered with ``--target-accuracy``, and the accuracy of these answers."""
    rows: list[Row] = []
    for model in models:
        entries = (model.get("confidence") or {}).get("coverage") or ()
        if entries and len(models) > 1:
            rows.append((_name(model),))
        for entry in entries:
            threshold = "not promised" if entry["threshold"] is None else f"{entry['threshold']:.3f}"
            rows.append((str(entry["target"]), threshold, percent(entry["coverage"]), percent(entry["accuracy"])))
    columns = ("--target-accuracy", "threshold", "answered, %", "of these right, %")
    return [Table("Certain answers", columns, rows, left_aligned=())] if rows else []


def _cascade_tables(result: Json) -> list[Table]:
    """Return the accuracy of the first model with its fallback, by the threshold of the confidence."""
    if not (cascade := result.get("cascade")):
        return []
    rows = []
    for step in cascade["steps"]:
        times = (f"{step['latency_ms']:.2f}",) if "latency_ms" in step else ()
        rows.append((_min_confidence(step), percent(step["sent"]), percent(step["accuracy"]), *times))
    times = ("ms per text",) if "latency_ms" in cascade["steps"][0] else ()
    columns = ("--min-confidence", "sent on, %", "accuracy, %", *times)
    return [Table(f"{cascade['model']} with --fallback {cascade['fallback']}", columns, rows, left_aligned=())]


def _min_confidence(step: Json) -> str:
    """Return the threshold of a step as it can be given to ``--min-confidence``."""
    return max(f"{step['threshold']:.3f}", str(step["threshold"]), key=len)


def cascade_notes(result: Json) -> list[str]:
    """Return a note about the threshold with which the first model and its fallback equal the fallback alone."""
    if not (cascade := result.get("cascade")):
        return []
    alone = f"{cascade['fallback']} alone ({percent(cascade['fallback_accuracy'])}% of all rows)"
    equal = next((step for step in cascade["steps"] if step["threshold"] == cascade["equal_at"]), None)
    if equal is None:
        return [f"no threshold in the table makes {cascade['model']} as accurate as {alone}"]
    if not equal["sent"]:
        return [f"{cascade['model']} needs no fallback to be as accurate as {alone}"]
    return [
        f"as accurate as {alone}: --min-confidence {_min_confidence(equal)}, which sends on "
        f"{percent(equal['sent'])}% of the texts"
    ]


def linear_baseline_notes(result: Json) -> list[str]:
    """Return a note if a small model is not clearly better than the best linear baseline.

    The small model is the first one with fewer parameters than the first model, which is usually its teacher.
    """
    models = [model for model in result["models"] if not _is_linear_baseline(model)]
    baselines = [model for model in result["models"] if _is_linear_baseline(model)]
    if not baselines:
        return []
    baseline = max(baselines, key=lambda model: model["average"]["accuracy"])
    first = models[0]
    small = next((m for m in models if (m.get("parameters") or 0) < (first.get("parameters") or 0)), first)
    average, baseline_accuracy = small["average"], baseline["average"]["accuracy"]
    if average["interval"][0] > baseline_accuracy:
        return []
    points = 100 * (average["accuracy"] - baseline_accuracy)
    if points < 0:
        comparison = f"{-points:.1f} points below {baseline['model']}"
    else:
        comparison = f"only {points:.1f} points above {baseline['model']}, within its 95% interval"
    return [f"{small['model']} is {comparison}; {_ADVICE}"]


def suspect_notes(result: Json) -> list[str]:
    """Return a note about the row whose label the first model contradicts most, if it is sure."""
    suspects = [s for s in result["models"][0].get("confidence", {}).get("suspects", ()) if s["probability"] > _SURE]
    if not suspects:
        return []
    first, text = suspects[0], " ".join(suspects[0]["text"].split())
    where = first.get("location") or f"row {first['row']}"
    return [
        f"{plural(len(suspects), 'likely label error')} (confidence.suspects of --json), such as {where} of "
        f"{first['domain']}, {first['label']}, which {result['models'][0]['model']} calls {first['answer']} "
        f"({percent(first['probability'])}%): {text[:_TEXT_START]}"
    ]


def latency_tables(result: Json, models: Sequence[tuple[str, Sequence[Json]]]) -> list[Table]:
    """Return a table of latencies with one column per model; no table if nothing was timed.

    ``models`` has the heading and the ``latency`` entries of each model; ``result`` names the machine.
    """
    columns = [
        {(entry["tokens"], entry["threads"]): f"{entry['p50']:.2f} / {entry['p95']:.2f}" for entry in latency}
        for _, latency in models
    ]
    settings = next((list(column) for column in columns if column), [])
    rows = [
        (str(tokens), str(threads), *(column.get((tokens, threads), "-") for column in columns))
        for tokens, threads in settings
    ]
    title = f"Milliseconds of a forward pass, p50 / p95, batch 1, on {result.get('machine', 'this machine')}"
    return [Table(title, ("tokens", "threads", *(name for name, _ in models)), rows, left_aligned=())] if rows else []


def export_tables(result: Json) -> list[Table]:
    """Return the files, the recipes tried, size by part, quantized operators, vocabulary and latency."""
    files: Sequence[Json] = result["files"]
    rows: list[Row] = [(f["path"], f["precision"], megabytes(f["bytes"])) for f in files]
    tables = [Table("Files", ("file", "precision", "MB"), rows, left_aligned=(0, 1))]
    if trials := result.get("tries"):
        rows = []
        for entry in trials:
            outcome = "kept" if entry["kept"] else "passed" if entry["passed"] else "FAILED"
            drop = f"{entry['drop']:.2f}"
            rows.append((entry["precision"], entry["recipe"], megabytes(entry["bytes"]), drop, outcome))
        title = f"Recipes tried, int8 for {result['target']}" if result.get("target") else "Recipes tried"
        columns = ("precision", "recipe", "MB", "points lost on dev", "gate")
        tables.append(Table(title, columns, rows, left_aligned=(0, 1, 4)))
    if parts := result.get("bytes_by_part"):
        smallest = min(files, key=lambda f: f["bytes"])["precision"] if files else "smallest"
        tables.append(
            key_value_table(f"The {smallest} file, by part", {name: byte_size(count) for name, count in parts.items()})
        )
    if operators := result.get("quantized_ops"):
        tables.append(key_value_table("Quantized operators", operators))
    if vocabulary := result.get("vocabulary"):
        tables.append(
            key_value_table("Vocabulary", {**vocabulary, "accuracy_drop": f"{vocabulary['accuracy_drop']:.2f}"})
        )
    return tables + latency_tables(
        result, [(f"{f['precision']}, {RUNTIMES['onnx']}", f.get("latency", ())) for f in files]
    )


def gate_lines(result: Json) -> list[str]:
    """Return a line that says whether the accuracy gate was passed."""
    gate = result.get("gate")
    if not gate or gate.get("drop") is None:
        return []
    verdict = "passed" if gate["passed"] else "FAILED"
    change = f"{'fell' if gate['drop'] >= 0 else 'rose'} by {abs(gate['drop']):.2f} points"
    return [f"Gate {verdict}: dev accuracy {change}; allowed drop: {gate['max_drop']:g}."]


def report_tables(result: Json) -> list[Table]:
    """Return the runs in a report."""
    rows = []
    for run in result["runs"]:
        best = run["best"] or {}
        state = "finished" if run["finished"] else "not finished"
        scores = (thousands(best.get("step")), percent(best.get("accuracy")))
        rows.append((run["run"], run["stage"], state, thousands(run["steps"]), *scores))
    columns = ("run", "stage", "", "steps", "best step", "dev accuracy, %")
    return [Table("Runs", columns, rows, left_aligned=(0, 1, 2))]


def key_value_table(title: str, values: Json, left_aligned: tuple[int, ...] = (0,)) -> Table:
    """Return a table of JSON keys and values; nested keys are indented."""
    return Table(title, ("", ""), list(_key_value_rows(values)), left_aligned)


def _key_value_rows(values: Json, indent: str = "") -> Iterator[Row]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield (indent + name,)
            yield from _key_value_rows(value, indent + "  ")
        else:
            yield indent + name, _format_value(value)


def _format_value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return thousands(value) if isinstance(value, int) else "-" if value is None else str(value)


def _is_linear_baseline(model: Json) -> bool:
    return bool(model.get("kind") == "floor")


def _name(model: Json) -> str:
    return str(model["model"]) if _is_linear_baseline(model) else f"{model['model']} ({model['precision']})"


def _heading(model: Json) -> str:
    name = str(model["model"])
    return name.replace(" + ", "\n+ ") if _is_linear_baseline(model) else f"{name}\n{model['precision']}"


def _format_accuracy(scores: Json) -> str:
    interval = scores.get("interval")
    suffix = f"  [{percent(interval[0])}, {percent(interval[1])}]" if interval else ""
    return percent(scores.get("accuracy")) + suffix


def _domain_rows(models: Sequence[Json], domains: Mapping[str, str], cell: Callable[[Json], str]) -> list[Row]:
    """Return one row per domain, with the label that ``domains`` gives it, and one for the average."""
    rows: list[Row] = []
    for name, label in domains.items():
        rows.append((f"  {label}", *(cell(model["domains"].get(name, {})) for model in models)))
    return [*rows, ("  average", *(cell(model["average"]) for model in models))]


def _confusion_tables(models: Sequence[Json]) -> list[Table]:
    """Return a confusion matrix of domains for each model that finds them, if they are few."""
    tables = []
    for model in models:
        matrix: Mapping[str, Mapping[str, int]] = model.get("found_domains", {})
        found = [*next(iter(matrix.values()), ())]
        if 0 < len(found) <= _MOST_CONFUSED:
            rows = [(name, *map(thousands, counts.values())) for name, counts in matrix.items()]
            tables.append(Table(f"Domains found by {_name(model)}", ("rows of", *found), rows))
    return tables


def _label_tables(models: Sequence[Json]) -> list[Table]:
    rows: list[Row] = []
    for model in models:
        if len(models) > 1:
            rows.append((_name(model),))
        for domain, entry in model["domains"].items():
            for label, scores in entry.get("labels", {}).items():
                percentages = (percent(scores[name]) for name in ("precision", "recall", "f1"))
                rows.append((domain, label, thousands(scores["support"]), *percentages))
    columns = ("domain", "label", "rows", "precision, %", "recall, %", "F1, %")
    return [Table("By label", columns, rows, left_aligned=(0, 1))] if any(len(row) > 1 for row in rows) else []
