"""Statistics and tables of `study.py`, from stored runs alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from study_plan import COLUMNS, METHODS, PLANS, STUDENT, PlanError

DRAWS = 10_000
BLOCK = 500  # draws at a time, for the memory

Floats = npt.NDArray[np.float64]
Right = Mapping[str, str]
"""For each domain, a character a test row: 1 where the label is right, 0 where it is not."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What lies in a column's folder.

    Attributes:
        name: of the column.
        facts: its column.json.
        runs: by method and seed.
    """

    name: str
    facts: dict[str, Any]
    runs: dict[str, dict[int, dict[str, Any]]]


def mean_accuracy(right: Right) -> float:
    """Return the share of right rows of each domain, averaged over domains, in %."""
    return 100 * float(np.mean([row.count("1") / len(row) for row in right.values()]))


def spread(values: Sequence[float]) -> float | None:
    """Return the standard deviation of a sample; None for a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def gaps(ones: Sequence[Right], others: Sequence[Right]) -> list[Floats]:
    """Return for each domain the (S, R) differences, -1 to 1, of S pairs of runs on its R test rows.

    Raises:
        PlanError: the runs are of different rows.
    """
    sizes = {tuple((domain, len(row)) for domain, row in right.items()) for right in (*ones, *others)}
    if len(sizes) != 1:
        raise PlanError("runs of one column were scored on different test rows")
    return [np.array([_digits(a[d]) - _digits(b[d]) for a, b in zip(ones, others, strict=True)]) for d in ones[0]]


def paired_difference(of: Sequence[Floats], *, draws: int = DRAWS, seed: int = 0) -> tuple[float, float, float]:
    """Return the mean difference and its 95 % interval, in points, averaged over domains.

    Each draw takes S of the S pairs and, in every domain, R of its R test rows, all with replacement: the pairs are the
    same in all domains, the rows the same in all pairs. The bounds are the 2.5 and 97.5 % points of the draws' means.

    Args:
        of: (S, R) differences of each domain; S is the same in all.
        draws: how often.
        seed: of the draws: equal shapes get equal draws, whatever the numbers.
    """
    rng = np.random.default_rng(seed)
    found = []
    for start in range(0, draws, BLOCK):
        count = min(BLOCK, draws - start)
        pairs = _counts(rng, count, of[0].shape[0])
        parts = [(pairs @ gap * _counts(rng, count, gap.shape[1])).sum(axis=1) / gap.size for gap in of]
        found.append(np.mean(parts, axis=0))
    low, high = np.percentile(np.concatenate(found), [2.5, 97.5])
    return 100 * float(np.mean([gap.mean() for gap in of])), 100 * float(low), 100 * float(high)


def _counts(rng: np.random.Generator, draws: int, size: int) -> Floats:
    """Return how often each of ``size`` things is drawn in ``size`` draws with replacement, (draws, size)."""
    drawn = rng.integers(size, size=(draws, size)) + size * np.arange(draws)[:, None]
    return np.bincount(drawn.ravel(), minlength=draws * size).reshape(draws, size).astype(float)


def _digits(row: str) -> Floats:
    return np.frombuffer(row.encode(), dtype=np.uint8).astype(float) - ord("0")


def read_column(folder: Path) -> Stored:
    """Read a column's folder.

    Raises:
        PlanError: its runs do not belong together.
    """
    facts = json.loads((folder / "column.json").read_text(encoding="utf-8"))
    runs: dict[str, dict[int, dict[str, Any]]] = {}
    for file in sorted(folder.glob("[!.]*-*.json")):
        run = json.loads(file.read_text(encoding="utf-8"))
        if run["fingerprints"] != facts["fingerprints"]:
            raise PlanError(f"{file}: made with other data or another teacher than {folder}/column.json; remove it")
        runs.setdefault(run["method"], {})[run["seed"]] = _scored(run, facts)
    order = list(COLUMNS[folder.name].methods) if folder.name in COLUMNS else []
    by_plan = sorted(runs, key=lambda name: (order.index(name) if name in order else len(order), name))
    return Stored(folder.name, _scored(facts, facts), {name: dict(sorted(runs[name].items())) for name in by_plan})


def _scored(record: dict[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored record without the test rows of domains that learnt from noise."""
    left_out = facts["column"].get("shuffled", ())
    kept = {name: record[name] for name in ("right", "floor") if record.get(name)}
    kept = {name: {d: row for d, row in right.items() if d not in left_out} for name, right in kept.items()}
    return {**record, **kept}


def tables(study: Path, against: str) -> dict[str, str]:
    """Return the Markdown of each plan that has something stored in ``study``.

    Raises:
        PlanError: nothing is there, or runs do not belong together.
    """
    found = {}
    for plan, columns in PLANS.items():
        there = [study / column for column in columns if (study / column / "column.json").is_file()]
        if there:
            found[plan] = "\n\n".join(table(read_column(folder), against) for folder in there)
    if not found:
        raise PlanError(f"{study}: nothing stored; make it with study.py run --out {study}")
    return found


def table(stored: Stored, against: str) -> str:
    """Return a column's heading, what it was made with, and a row a method."""
    reference = _reference(stored, against)
    if against == "floor" and reference is None:
        raise PlanError(f"{stored.name}: no linear model was stored; it needs scikit-learn when the column is made")
    name = "the linear model" if against == "floor" else _says(against)
    head = [
        "method",
        "test",
        "sd over seeds",
        "dev",
        *([f"difference to {name} [95 %]"] if reference else []),
        "seeds",
        "training, s",
        "examples/s",
    ]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    facts, blank = stored.facts, [""] * (len(head) - 7)
    if facts["floor"]:
        lines.append(["linear model on words", f"{mean_accuracy(facts['floor']):.1f}", "", "", *blank, "", "", ""])
    speed = [f"{facts['seconds']:,.0f}", f"{facts['examples_per_second']:,.0f}"]
    teacher = ["teacher", f"{mean_accuracy(facts['right']):.1f}", "", f"{100 * facts['dev']:.1f}"]
    lines.append([*teacher, *blank, "1", *speed])
    lines += [_row(method, runs, reference, own=method == against) for method, runs in stored.runs.items()]
    says = COLUMNS[stored.name].says if stored.name in COLUMNS else stored.name
    body = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"### {says[0].upper()}{says[1:]}\n\n{_made_with(stored)}\n\n{body}{_ratios(stored)}"


def _reference(stored: Stored, against: str) -> Mapping[int, Any] | None:
    """Return the runs to compare with, by seed: a method's, or ``teacher`` or ``floor``, the same for all seeds."""
    if against not in ("teacher", "floor"):
        return stored.runs.get(against)
    right = stored.facts["right" if against == "teacher" else "floor"]
    seeds = {seed for runs in stored.runs.values() for seed in runs}
    return {seed: {"right": right} for seed in seeds} if right else None


def _ratios(stored: Stored) -> str:
    """Say what the domain ratios had become at the end, where a method has a graph and its runs tell."""
    domains = sorted({*stored.facts["right"], *stored.facts["column"].get("shuffled", ())})
    lines = []
    for method, runs in stored.runs.items():
        found = [run["ratios"] for run in runs.values() if len(run.get("ratios") or ()) == len(domains)]
        if found:
            means = [f"{d} {np.mean(column):.3f}" for d, column in zip(domains, zip(*found, strict=True), strict=True)]
            lines.append(f"- {_says(method)}: {', '.join(means)}")
    if not lines:
        return ""
    return "\n\nDomain ratios in the last fifth of training, means over layers and seeds:\n\n" + "\n".join(lines)


def _row(method: str, runs: Mapping[int, Any], reference: Mapping[int, Any] | None, *, own: bool) -> list[str]:
    tests = [mean_accuracy(run["right"]) for run in runs.values()]
    sd = spread(tests)
    cells = [_says(method), f"{np.mean(tests):.1f}", "" if sd is None else f"{sd:.1f}"]
    cells.append(f"{100 * np.mean([run['dev'] for run in runs.values()]):.1f}")
    if reference is not None:
        seeds = [seed for seed in runs if seed in reference]
        text = "" if own or not seeds else _difference(runs, reference, seeds)
        cells.append(f"{text} ({len(seeds)} seeds)" if text and len(seeds) < len(runs) else text)
    middle = [float(np.median([run[name] for run in runs.values()])) for name in ("seconds", "examples_per_second")]
    return [*cells, str(len(runs)), *(f"{value:,.0f}" for value in middle)]


def _difference(runs: Mapping[int, Any], reference: Mapping[int, Any], seeds: Sequence[int]) -> str:
    ones, others = ([side[seed]["right"] for seed in seeds] for side in (runs, reference))
    mean, low, high = paired_difference(gaps(ones, others))
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def _made_with(stored: Stored) -> str:
    """Say on what, with what and where the runs were made; what differs between them is named with all its values."""
    column, facts = stored.facts["column"], stored.facts
    runs = [run for by_seed in stored.runs.values() for run in by_seed.values()]
    rows = " / ".join(f"{count:,}" for count in facts["rows"].values())
    cut = f", cut by `{column['truncate']}`" if column["truncate"] else ""
    taught = f"{facts['teacher_model']}, {column['teacher_epochs']} epochs at {column['teacher_rate']:g}"
    parts = [f"{rows} rows (train / dev / test), {column['max_length']} tokens{cut}. Teacher: {taught}."]
    if column.get("shuffled"):
        parts.append(
            f"Test accuracy is that of the domains other than {' and '.join(column['shuffled'])}, dev that of all."
        )
    if runs:
        epochs = _all(run["options"]["epochs"] for run in runs)
        seeds = ", ".join(str(seed) for seed in sorted({run["seed"] for run in runs}))
        named = ((run["student"], run["options"]["student"]) for run in runs)
        students = _all(model if option == STUDENT else option for model, option in named)
        parts.append(f"Students: {students}, {epochs} epochs, seeds {seeds}.")
    machines = _all(run["device"] for run in [facts, *runs])
    threads = _all(f"{run['threads']} threads" for run in runs or [facts])
    versions = _all(f"torch {run['versions'].get('torch')}" for run in [facts, *runs])
    parts.append(f"{machines}; {threads}; {versions}.")
    return " ".join(parts)


def _says(method: str) -> str:
    """Return what tables call a method; a stored one that is no longer in the plan has its name only."""
    return METHODS[method][0] if method in METHODS else method


def _all(values: Iterable[Any]) -> str:
    return " or ".join(dict.fromkeys(str(value) for value in values))


def put_into(text: str, blocks: Mapping[str, str]) -> tuple[str, list[str]]:
    """Replace what stands between a plan's markers; return the text and the plans that it has markers for."""
    done = []
    for plan, block in blocks.items():
        begin, end = f"<!-- study:{plan} -->", "<!-- /study -->"
        before, found, rest = text.partition(begin)
        if found and end in rest:
            text = f"{before}{begin}\n\n{block}\n\n{end}{rest.partition(end)[2]}"
            done.append(plan)
    return text, done
