"""What was exported from a student: files, what each precision cost by domain, latency. Read from ``export.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hrkd_cli.layout import ONNX
from hrkd_cli.reporting import html
from hrkd_cli.reporting.chart import Chart, Line
from hrkd_cli.reporting.facts import percent
from hrkd_cli.reporting.run import Run

Entry = Mapping[str, Any]


def exported(run: Run, ident: str) -> str:
    """Return the part of the page about a student's ONNX files; empty where there are none.

    Args:
        run: see Run.
        ident: prefix of the ids of its charts, used once a page.
    """
    entries = [entry for _, entry in sorted(run.exported.items(), key=lambda item: (item[0] != ONNX.fp32, item[0]))]
    if not entries:
        return ""
    names = sorted(run.exported, key=lambda name: (name != ONNX.fp32, name))
    content = _files(names, entries) + _cost(entries) + _tries(entries) + _latency(entries, ident)
    note = "Accuracy is that of the dev split, one text at a time; points are lost from the student's torch weights."
    return html.section("Exported files", content, note=note)


def _files(names: Sequence[str], entries: Sequence[Entry]) -> str:
    rows = []
    for name, entry in zip(names, entries, strict=True):
        dev = entry.get("dev") or {}
        gate = "" if "max_drop" not in dev else "passed" if dev["drop"] <= dev["max_drop"] else "failed"
        limit = f"{gate} ({dev['drop']:.2f} of {dev['max_drop']:g})" if gate else ""
        target = f"{entry['target']}, {entry.get('weight_bits')}-bit weights" if "target" in entry else ""
        rows.append(
            (
                f"onnx/{name}",
                str(entry.get("precision", "")),
                f"{entry.get('bytes', 0) / 1e6:.1f}",
                str(entry.get("recipe", "as the torch weights")),
                limit,
                target,
            )
        )
    columns = ("file", "precision", "MB", "made with", "gate: points lost of allowed", "for")
    return html.table(columns, rows, words=(0, 1, 3, 4, 5))


def _cost(entries: Sequence[Entry]) -> str:
    """Accuracy by domain, and in brackets what each precision cost."""
    scored = [
        (str(entry.get("precision")), entry["dev"]) for entry in entries if (entry.get("dev") or {}).get("accuracy")
    ]
    if not scored:
        return ""
    base: Mapping[str, float] = scored[0][1]["accuracy"]
    columns = ["domain", f"{scored[0][0]}, %"]
    columns += [text for precision, _ in scored[1:] for text in (f"{precision}, %", "change, points")]
    rows = []
    for domain in base:
        row = [domain, percent(base[domain])]
        for _, dev in scored[1:]:
            accuracy = dev["accuracy"].get(domain)
            row += [percent(accuracy), "" if accuracy is None else _points(100 * (accuracy - base[domain]))]
        rows.append(row)
    average = ["average", percent(_mean(base))]
    padded = ["average, padded in batches", ""]
    for _, dev in scored[1:]:
        average += [percent(_mean(dev["accuracy"])), _points(-dev["drop"])]
        padded += ["", _points(-dev["padded_drop"]) if "padded_drop" in dev else ""]
    rows.append(average)
    if any(padded[1:]):
        rows.insert(-1, padded)
    return html.subtitle("What each precision costs") + html.table(columns, rows, last=True)


def _tries(entries: Sequence[Entry]) -> str:
    tries = [one for entry in entries for one in entry.get("tries") or ()]
    if not tries:
        return ""
    rows = [
        (
            str(one["recipe"]),
            str(one["precision"]),
            f"{one['bytes'] / 1e6:.1f}",
            f"{one['drop']:.2f}",
            "passed" if one["passed"] else "failed",
            "yes" if one["kept"] else "",
        )
        for one in tries
    ]
    columns = ("recipe", "precision", "MB", "points lost", "gate", "kept")
    return html.details("Every recipe that was tried", html.table(columns, rows, words=(0, 1, 4, 5)))


def _latency(entries: Sequence[Entry], ident: str) -> str:
    timed = [entry for entry in entries if entry.get("latency")]
    if not timed:
        return ""
    threads = sorted({figure["threads"] for entry in timed for figure in entry["latency"]})
    names = [str(entry.get("precision")) for entry in timed]
    figures = []
    for number, count in enumerate(threads):
        lines = [
            Line(name, [(f["tokens"], f["p50"]) for f in entry["latency"] if f["threads"] == count], index, dots=True)
            for index, (name, entry) in enumerate(zip(names, timed, strict=True))
        ]
        title = f"Median latency, {count} thread{'s' if count > 1 else ''}"
        chart = Chart(title, "tokens of the text", "milliseconds", lines)
        columns = [text for name in names for text in (f"{name} p50, ms", f"{name} p95, ms")]
        points = [
            [(f["tokens"], f[key]) for f in entry["latency"] if f["threads"] == count]
            for entry in timed
            for key in ("p50", "p95")
        ]
        figures.append(html.figure(chart, f"{ident}-x{number}", html.values_table("tokens", columns, points)))
    machines = " and ".join(dict.fromkeys(str(entry["machine"]) for entry in timed if "machine" in entry))
    said = f"A forward pass, batch 1, on {machines}." if machines else "A forward pass, batch 1."
    key = html.legend([(name, index) for index, name in enumerate(names)])
    return html.subtitle("Latency") + html.paragraph(said) + key + html.grid(figures)


def _mean(accuracy: Mapping[str, float]) -> float:
    return sum(accuracy.values()) / len(accuracy)


def _points(change: float) -> str:
    return f"{change:+.2f}" if abs(change) >= 0.005 else "0.00"
