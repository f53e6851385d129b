"""Statistics, tables and picture of the results that `study.py` collected."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from study_methods import COLUMNS, LENGTHS, METHODS, STUDENT, StudyError

RESAMPLES = 10_000
BLOCK = 500  # bootstrap samples at a time, to limit memory

Floats = npt.NDArray[np.float64]
CorrectRows = Mapping[str, str]
"""By domain, one character per test row: 1 if the predicted label is correct, else 0."""


@dataclass(slots=True)
class Results:
    """The content of results files.

    Attributes:
        columns: facts of each column.
        runs: records by (column, method, seed); ``right`` has one character per test row and domain, 1 if correct.
    """

    columns: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: dict[tuple[str, str, int], dict[str, Any]] = field(default_factory=dict)

    def methods(self, column: str) -> dict[str, dict[int, dict[str, Any]]]:
        """Return the records of a column by method, in the order of METHODS, and seed."""
        found: dict[str, dict[int, dict[str, Any]]] = {}
        for (of_column, method, seed), record in sorted(self.runs.items()):
            if of_column == column and "right" in record:
                found.setdefault(method, {})[seed] = record
        order = list(METHODS)
        return {name: found[name] for name in sorted(found, key=lambda name: (*order, name).index(name))}


def read_results(files: Sequence[Path]) -> Results:
    """Read results files. Lines about the same run are merged; later lines replace values of earlier ones.

    Raises:
        StudyError: a column has different data in two lines, or a run comes before its column.
    """
    results = Results()
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
            record = json.loads(line)
            name = record["column"]
            if "method" not in record:
                if results.columns.setdefault(name, record)["data"] != record["data"]:
                    raise StudyError(f"{file}: column {name} has other data than in an earlier line")
                continue
            if name not in results.columns:
                raise StudyError(f"{file}: a run of column {name}, but no line with the column's facts before it")
            if "right" in record:
                sizes = results.columns[name]["test_rows"]
                record["right"] = {domain: f"{int(record['right'][domain], 16):0{sizes[domain]}b}" for domain in sizes}
            results.runs.setdefault((name, record["method"], record["seed"]), {}).update(record)
    return results


def mean_accuracy(correct: CorrectRows) -> float:
    """Return the accuracy in %, averaged over domains."""
    return 100 * float(np.mean([row.count("1") / len(row) for row in correct.values()]))


def sample_sd(values: Sequence[float]) -> float | None:
    """Return the standard deviation of a sample; None for a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def row_differences(ones: Sequence[CorrectRows], others: Sequence[CorrectRows]) -> list[Floats]:
    """Return the differences of S pairs of runs on the R test rows of each domain: arrays (S, R) of -1, 0 and 1.

    Raises:
        StudyError: the runs were scored on different rows.
    """
    sizes = {tuple((domain, len(row)) for domain, row in correct.items()) for correct in (*ones, *others)}
    if len(sizes) != 1:
        raise StudyError("runs of one column were scored on different test rows")
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


def difference(
    reference: Mapping[int, Any], runs: Mapping[int, Any], *, deterministic: bool
) -> tuple[float, float, float, int] | None:
    """Return mean and interval of the reference's accuracy minus another method's, and the number of seeds.

    Runs are paired by seed. A deterministic method has one run, which is paired with every seed of the reference. None
    without a pair.
    """
    if deterministic:
        runs = dict.fromkeys(reference, next(iter(runs.values())))
    seeds = [seed for seed in reference if seed in runs]
    if not seeds:
        return None
    ones, others = ([side[seed]["right"] for seed in seeds] for side in (reference, runs))
    return *paired_bootstrap(row_differences(ones, others)), len(seeds)


def make_tables(results: Results, against: str) -> str:
    """Return a Markdown table of all columns, and one for each.

    Raises:
        StudyError: there are no results, or no method has the name ``against``.
    """
    columns = _columns(results)
    if not columns:
        raise StudyError("no results")
    if against not in METHODS:
        raise StudyError(f"--against: {against!r} is not one of {', '.join(METHODS)}")
    return "\n\n".join([make_summary(columns, results), *(_make_table(name, results, against) for name in columns)])


def make_summary(columns: Sequence[str], results: Results) -> str:
    """Return a table of test accuracy by method and column, with the means of the methods that have all columns."""
    head = ["method", *(COLUMNS[name].title for name in columns), "mean", "MB, weights", "ms"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    lines.append(["train rows", *(f"{results.columns[name]['rows']['train']:,}" for name in columns), "", "", ""])
    accuracy = {name: {m: _mean_of_seeds(runs) for m, runs in results.methods(name).items()} for name in columns}
    for method in METHODS:
        own = [accuracy[name].get(method) for name in columns]
        if any(own):
            best = [max(by_method.values()) for by_method in accuracy.values()]
            cells = [
                "" if value is None else f"**{value:.1f}**" if value == top else f"{value:.1f}"
                for value, top in zip(own, best, strict=True)
            ]
            summary = _summarize(method, columns, results)
            means = [
                f"{summary[key]:.{digits}f}" if key in summary else ""
                for key, digits in (("test", 1), ("mb", 1), ("ms", 2))
            ]
            lines.append([METHODS[method].label, *cells, *means])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _make_table(name: str, results: Results, against: str) -> str:
    facts, methods = results.columns[name], results.methods(name)
    rows = " / ".join(f"{count:,}" for count in facts["rows"].values())
    head = ["method", "test", "SD", f"{METHODS[against].label.strip('*')} minus this [95%]", "seeds"]
    head += ["MB, weights", "MB, folder", *(f"ms, {tokens} tokens" for tokens in LENGTHS), "training, min"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for method, runs in methods.items():
        accuracies = [mean_accuracy(run["right"]) for run in runs.values()]
        sd, gap = sample_sd(accuracies), ""
        if method != against and against in methods:
            found = difference(methods[against], runs, deterministic=METHODS[method].deterministic)
            gap = "" if found is None else f"{found[0]:+.1f} [{found[1]:+.1f}, {found[2]:+.1f}]"
            if found and found[3] < len(methods[against]):
                gap += f" ({found[3]} seed{'s' if found[3] > 1 else ''})"
        times = _first(runs, "ms") or {}
        lines.append(
            [
                METHODS[method].label,
                f"{np.mean(accuracies):.1f}",
                "" if sd is None else f"{sd:.1f}",
                gap,
                str(len(runs)),
                *(
                    f"{_median(run['bytes'][part] for run in runs.values()) / 1e6:.1f}"
                    for part in ("weights", "folder")
                ),
                *(f"{times[str(n)][0]:.2f}" if str(n) in times else "" for n in LENGTHS),
                f"{_median(run['minutes'] for run in runs.values()):.1f}",
            ]
        )
    body = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    text = f"{rows} rows (train / dev / test); a test text has {facts['tokens']:.0f} tokens (median)."
    return f"#### {COLUMNS[name].title}\n\n{text}\n\n{body}"


def _first(runs: Mapping[int, Any], key: str) -> Any:
    """Return the value of the first run that has it."""
    return next((run[key] for run in runs.values() if key in run), None)


def _median(values: Iterable[float]) -> float:
    return float(np.median(list(values)))


def pareto_front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Return the names of the points (cost, accuracy) that no other point beats, by cost.

    A point is beaten by one that is at least as good in both and better in one.
    """
    front = []
    for name, (cost, accuracy) in points.items():
        others = [other for key, other in points.items() if key != name]
        if not any(c <= cost and a >= accuracy and (c, a) != (cost, accuracy) for c, a in others):
            front.append(name)
    return sorted(front, key=lambda name: points[name])


def draw_picture(results: Results, out: Path) -> None:
    """Draw accuracy by size and by latency as SVG, averaged over the columns, with the Pareto fronts.

    Only methods that have results (in the right half, also times) for every column are drawn.
    """
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "study"  # the same picture for the same results
    from matplotlib import pyplot as plt

    columns = _columns(results)
    summary = {method: _summarize(method, columns, results) for method in METHODS}
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    _draw_points(left, {name: (found["mb"], found["test"]) for name, found in summary.items() if "mb" in found})
    _draw_points(right, {name: (found["ms"], found["test"]) for name, found in summary.items() if "ms" in found})
    left.set(xlabel="MB of weights", ylabel=f"test accuracy, %, mean of {len(columns)} data sets")
    right.set(xlabel="ms per text of median length, one thread")
    figure.savefig(out, metadata={"Date": None})
    plt.close(figure)


def _columns(results: Results) -> list[str]:
    """Return the columns with results, in the order of COLUMNS."""
    return [name for name in COLUMNS if name in results.columns and results.methods(name)]


def _summarize(method: str, columns: Sequence[str], results: Results) -> dict[str, float]:
    """Return a method's test accuracy, MB of weights and milliseconds, averaged over the columns.

    Milliseconds are those of the timed length that is closest to the column's median text. Empty if a column has no
    result; without ``ms`` if one has no times.
    """
    found = [results.methods(column).get(method) for column in columns]
    if not all(found):
        return {}
    runs = [by_seed for by_seed in found if by_seed]
    summary = {
        "test": float(np.mean([_mean_of_seeds(by_seed) for by_seed in runs])),
        "mb": float(np.mean([_first(by_seed, "bytes")["weights"] for by_seed in runs])) / 1e6,
    }
    times = [_first(by_seed, "ms") for by_seed in runs]
    if all(times):
        tokens = [min(LENGTHS, key=lambda n: abs(n - results.columns[column]["tokens"])) for column in columns]
        summary["ms"] = float(np.mean([by_length[str(n)][0] for by_length, n in zip(times, tokens, strict=True)]))
    return summary


def _mean_of_seeds(runs: Mapping[int, Any]) -> float:
    return float(np.mean([mean_accuracy(run["right"]) for run in runs.values()]))


def _draw_points(axes: Any, points: Mapping[str, tuple[float, float]]) -> None:
    """Draw named points and connect those of the Pareto front.

    A name is above its point, or below it if the name of a slightly better point is there.
    """
    front = pareto_front(points)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(x=0.25, y=0.15)
    axes.grid(visible=True, alpha=0.3)
    if front:
        axes.step(*zip(*(points[name] for name in front), strict=True), where="post", color="tab:orange", zorder=1)
    for name, (cost, accuracy) in points.items():
        color = "tab:orange" if name in front else "tab:gray"
        axes.plot(cost, accuracy, "D" if name == STUDENT else "o", color=color)
        weight = "bold" if name == STUDENT else "normal"
        label = METHODS[name].label.strip("*")
        crowded = any(0 < a - accuracy < 2 and 0.1 < c / cost < 10 for c, a in points.values())
        place = {"xytext": (0, -6 if crowded else 6), "va": "top" if crowded else "bottom"}
        axes.annotate(
            label, (cost, accuracy), textcoords="offset points", ha="center", fontsize=8, weight=weight, **place
        )


def replace_tables(text: str, tables: str) -> str:
    """Replace the text between the markers.

    Raises:
        StudyError: there are no markers.
    """
    begin, end = "<!-- study -->", "<!-- /study -->"
    before, marker, rest = text.partition(begin)
    if not marker or end not in rest:
        raise StudyError(f"no {begin} with {end} after it")
    return f"{before}{begin}\n\n{tables}\n\n{end}{rest.partition(end)[2]}"
