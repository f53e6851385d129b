"""Statistics and tables of the runs that `study.py` stored."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from study_plan import COLUMNS, METHODS, PLANS, STUDENT, PlanError

RESAMPLES = 10_000
BLOCK = 500  # bootstrap samples at a time, to limit memory

Floats = npt.NDArray[np.float64]
CorrectRows = Mapping[str, str]
"""By domain, one character per test row: 1 if the predicted label is correct, else 0."""


@dataclass(frozen=True, slots=True)
class StoredColumn:
    """The stored results of a column.

    Attributes:
        name: name of the column.
        record: content of column.json: data, teacher and linear model.
        runs: records of students by method and seed.
    """

    name: str
    record: dict[str, Any]
    runs: dict[str, dict[int, dict[str, Any]]]


def mean_accuracy(correct: CorrectRows) -> float:
    """Return the accuracy in %, averaged over domains."""
    return 100 * float(np.mean([row.count("1") / len(row) for row in correct.values()]))


def sample_sd(values: Sequence[float]) -> float | None:
    """Return the standard deviation of a sample; None for a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def row_differences(ones: Sequence[CorrectRows], others: Sequence[CorrectRows]) -> list[Floats]:
    """Return the differences of S pairs of runs on the R test rows of each domain: arrays (S, R) of -1, 0 and 1.

    Raises:
        PlanError: the runs were scored on different rows.
    """
    sizes = {tuple((domain, len(row)) for domain, row in correct.items()) for correct in (*ones, *others)}
    if len(sizes) != 1:
        raise PlanError("runs of one column were scored on different test rows")
    return [np.array([_to_array(a[d]) - _to_array(b[d]) for a, b in zip(ones, others, strict=True)]) for d in ones[0]]


def paired_bootstrap(
    differences: Sequence[Floats], *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float, float]:
    """Return the mean difference and its 95% percentile interval, in points, averaged over domains.

    Each resample draws S of the S pairs (the same in all domains) and, in every domain, R of its R test rows (the same
    in all pairs), with replacement.

    Args:
        differences: (S, R) differences by domain; S is the same in all.
        resamples: number of bootstrap samples.
        seed: seed of the bootstrap; arrays of equal shape are resampled alike.
    """
    rng = np.random.default_rng(seed)
    means = []
    for start in range(0, resamples, BLOCK):
        count = min(BLOCK, resamples - start)
        pair_counts = _bootstrap_counts(rng, count, differences[0].shape[0])
        by_domain = []
        for domain in differences:
            row_counts = _bootstrap_counts(rng, count, domain.shape[1])
            by_domain.append((pair_counts @ domain * row_counts).sum(axis=1) / domain.size)
        means.append(np.mean(by_domain, axis=0))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return 100 * float(np.mean([domain.mean() for domain in differences])), 100 * float(low), 100 * float(high)


def _bootstrap_counts(rng: np.random.Generator, resamples: int, size: int) -> Floats:
    """Return how often each of ``size`` items occurs in each bootstrap sample, (resamples, size)."""
    drawn = rng.integers(size, size=(resamples, size)) + size * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * size).reshape(resamples, size).astype(float)


def _to_array(row: str) -> Floats:
    return np.frombuffer(row.encode(), dtype=np.uint8).astype(float) - ord("0")


def read_column(folder: Path) -> StoredColumn:
    """Read the stored results of a column.

    Raises:
        PlanError: a run was made with other data or another teacher.
    """
    record = json.loads((folder / "column.json").read_text(encoding="utf-8"))
    shuffled = record["column"].get("shuffled", ())
    runs: dict[str, dict[int, dict[str, Any]]] = {}
    for file in sorted(folder.glob("[!.]*-*.json")):
        run = json.loads(file.read_text(encoding="utf-8"))
        if run["fingerprints"] != record["fingerprints"]:
            raise PlanError(f"{file}: made with other data or another teacher than {folder}/column.json; remove it")
        runs.setdefault(run["method"], {})[run["seed"]] = _without_domains(run, shuffled)
    order = list(COLUMNS[folder.name].methods) if folder.name in COLUMNS else []
    methods = sorted(runs, key=lambda name: (order.index(name) if name in order else len(order), name))
    by_method = {name: dict(sorted(runs[name].items())) for name in methods}
    return StoredColumn(folder.name, _without_domains(record, shuffled), by_method)


def _without_domains(record: dict[str, Any], domains: Collection[str]) -> dict[str, Any]:
    """Return a record without the test rows of some domains."""
    scored = {}
    for name in ("right", "floor"):
        if record.get(name):
            scored[name] = {domain: row for domain, row in record[name].items() if domain not in domains}
    return {**record, **scored}


def make_tables(study: Path, against: str) -> dict[str, str]:
    """Return the Markdown tables of the stored columns, by plan.

    Raises:
        PlanError: nothing is stored, or the runs of a column differ in data or teacher.
    """
    tables = {}
    for plan, columns in PLANS.items():
        stored = [study / column for column in columns if (study / column / "column.json").is_file()]
        if stored:
            tables[plan] = "\n\n".join(make_table(read_column(folder), against) for folder in stored)
    if not tables:
        raise PlanError(f"{study}: nothing stored; make it with study.py run --out {study}")
    return tables


def make_table(column: StoredColumn, against: str) -> str:
    """Return a column's heading, a description of its runs, and a table with one row per method."""
    reference = _reference_runs(column, against)
    if against == "floor" and reference is None:
        raise PlanError(f"{column.name}: no linear model was stored; it needs scikit-learn when the column is made")
    name = "the linear model" if against == "floor" else _method_label(against)
    head = [
        "method",
        "test",
        "SD over seeds",
        "dev",
        *([f"difference from {name} [95%]"] if reference else []),
        "seeds",
        "training, s",
        "examples/s",
    ]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    record, blank = column.record, [""] * (len(head) - 7)
    if record["floor"]:
        lines.append(["linear model", f"{mean_accuracy(record['floor']):.1f}", "", "", *blank, "", "", ""])
    speed = [f"{record['seconds']:,.0f}", f"{record['examples_per_second']:,.0f}"]
    teacher = ["teacher", f"{mean_accuracy(record['right']):.1f}", "", f"{100 * record['dev']:.1f}"]
    lines.append([*teacher, *blank, "1", *speed])
    for method, runs in column.runs.items():
        lines.append(_method_row(method, runs, reference, is_reference=method == against))
    title = COLUMNS[column.name].title if column.name in COLUMNS else column.name
    body = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"### {title[0].upper()}{title[1:]}\n\n{_describe_runs(column)}\n\n{body}{_final_ratios(column)}"


def _reference_runs(column: StoredColumn, against: str) -> Mapping[int, Any] | None:
    """Return the runs of the reference by seed: those of a method, or the teacher or linear model for every seed."""
    if against not in ("teacher", "floor"):
        return column.runs.get(against)
    correct = column.record["right" if against == "teacher" else "floor"]
    seeds = {seed for runs in column.runs.values() for seed in runs}
    return {seed: {"right": correct} for seed in seeds} if correct else None


def _final_ratios(column: StoredColumn) -> str:
    """Return a list of the final domain ratios of methods with a graph; empty if there are none."""
    domains = sorted({*column.record["right"], *column.record["column"].get("shuffled", ())})
    lines = []
    for method, runs in column.runs.items():
        ratios = [run["ratios"] for run in runs.values() if len(run.get("ratios") or ()) == len(domains)]
        if ratios:
            means = [f"{domain} {mean:.3f}" for domain, mean in zip(domains, np.mean(ratios, axis=0), strict=True)]
            lines.append(f"- {_method_label(method)}: {', '.join(means)}")
    if not lines:
        return ""
    return "\n\nDomain ratios in the last fifth of training, averaged over layers and seeds:\n\n" + "\n".join(lines)


def _method_row(
    method: str, runs: Mapping[int, Any], reference: Mapping[int, Any] | None, *, is_reference: bool
) -> list[str]:
    accuracies = [mean_accuracy(run["right"]) for run in runs.values()]
    sd = sample_sd(accuracies)
    cells = [_method_label(method), f"{np.mean(accuracies):.1f}", "" if sd is None else f"{sd:.1f}"]
    cells.append(f"{100 * np.mean([run['dev'] for run in runs.values()]):.1f}")
    if reference is not None:
        seeds = [seed for seed in runs if seed in reference]
        text = "" if is_reference or not seeds else _difference(runs, reference, seeds)
        cells.append(f"{text} ({len(seeds)} seeds)" if text and len(seeds) < len(runs) else text)
    medians = [float(np.median([run[name] for run in runs.values()])) for name in ("seconds", "examples_per_second")]
    return [*cells, str(len(runs)), *(f"{value:,.0f}" for value in medians)]


def _difference(runs: Mapping[int, Any], reference: Mapping[int, Any], seeds: Sequence[int]) -> str:
    ones, others = ([side[seed]["right"] for seed in seeds] for side in (runs, reference))
    mean, low, high = paired_bootstrap(row_differences(ones, others))
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def _describe_runs(stored: StoredColumn) -> str:
    """Return the data, models and machine of the runs; where runs differ, all values are listed."""
    column, record = stored.record["column"], stored.record
    runs = [run for by_seed in stored.runs.values() for run in by_seed.values()]
    rows = " / ".join(f"{count:,}" for count in record["rows"].values())
    truncate = f", truncated with `{column['truncate']}`" if column["truncate"] else ""
    teacher = f"{record['teacher_model']}, {column['teacher_epochs']} epochs at {column['teacher_rate']:g}"
    parts = [f"{rows} rows (train / dev / test), {column['max_length']} tokens{truncate}. Teacher: {teacher}."]
    if column.get("shuffled"):
        parts.append(
            f"Test accuracy is that of the domains other than {' and '.join(column['shuffled'])}, dev that of all."
        )
    if runs:
        epochs = _join_distinct(run["options"]["epochs"] for run in runs)
        seeds = ", ".join(str(seed) for seed in sorted({run["seed"] for run in runs}))
        students = ((run["student"], run["options"]["student"]) for run in runs)
        names = _join_distinct(model if option == STUDENT else option for model, option in students)
        parts.append(f"Students: {names}, {epochs} epochs, seeds {seeds}.")
    machines = _join_distinct(run["device"] for run in [record, *runs])
    threads = _join_distinct(f"{run['threads']} thread{'' if run['threads'] == 1 else 's'}" for run in runs or [record])
    versions = _join_distinct(f"torch {run['versions'].get('torch')}" for run in [record, *runs])
    parts.append(f"{machines}; {threads}; {versions}.")
    return " ".join(parts)


def _method_label(method: str) -> str:
    """Return a method's label in tables; the name of a stored method that is no longer in the plan."""
    return METHODS[method].label if method in METHODS else method


def _join_distinct(values: Iterable[Any]) -> str:
    return " or ".join(dict.fromkeys(str(value) for value in values))


def replace_tables(text: str, tables: Mapping[str, str]) -> tuple[str, list[str]]:
    """Replace the text between each plan's markers; return the new text and the plans that have markers."""
    replaced = []
    for plan, table in tables.items():
        begin, end = f"<!-- study:{plan} -->", "<!-- /study -->"
        before, marker, rest = text.partition(begin)
        if marker and end in rest:
            text = f"{before}{begin}\n\n{table}\n\n{end}{rest.partition(end)[2]}"
            replaced.append(plan)
    return text, replaced
