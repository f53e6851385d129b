"""The part of a student's README.md that describes its ONNX files."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hrkd_cli.evaluation.latency import Latency
from hrkd_cli.layout import MODEL, ONNX
from hrkd_cli.onnx_export.record import Record
from hrkd_cli.onnx_export.timing import slower_than

BEGIN = "<!-- hrkd export: begin -->"
END = "<!-- hrkd export: end -->"

SECTION = """## ONNX files

{files}

{dev}

{latency}

{needs}

`onnx/self_check.json` holds predictions to repeat on the device: `hrkd predict --self-check .`

Not tested: other processors than that of the machine that exported (integer arithmetic differs between them; score the
file there with `hrkd eval`), other runtimes than onnxruntime, and texts longer than those of the data.
"""


def write_card(student: Path, root: Path, folder: Path, record: Record) -> str:
    """Put the section into a copy of the model card in ``folder`` and return the card's name.

    Args:
        student: the model folder, whose card is taken where ``root`` has none.
        root: folder that gets the card.
        folder: the working folder.
        record: the exported files.
    """
    target = folder / MODEL.readme
    source = next((place / MODEL.readme for place in (root, student) if (place / MODEL.readme).is_file()), None)
    if source is not None:
        shutil.copyfile(source, target)
    text = target.read_text(encoding="utf-8") if source is not None else "# Text classifier\n"
    target.write_text(place_section(text, section(record.files)), encoding="utf-8")
    return MODEL.readme


def place_section(card: str, text: str) -> str:
    """Put a section into a card, in the place of an earlier one or at the end."""
    marked = f"{BEGIN}\n{text.strip()}\n{END}"
    before, begin, rest = card.partition(BEGIN)
    _, end, after = rest.partition(END)
    if begin and end:
        return before + marked + after
    return f"{card.rstrip()}\n\n{marked}\n"


def section(files: Mapping[str, Mapping[str, Any]]) -> str:
    """Describe exported files: size, accuracy by domain, latency, and what they need."""
    ordered = sorted(files.items(), key=lambda item: (item[0] != ONNX.fp32, item[0]))
    return SECTION.format(
        files=_files(ordered), dev=_dev(ordered), latency=_latency(ordered), needs=_needs(ordered)
    ).replace("\n\n\n\n", "\n\n")


Files = Sequence[tuple[str, Mapping[str, Any]]]


def _files(files: Files) -> str:
    rows = [
        (f"`onnx/{name}`", entry["precision"], f"{entry['bytes']:,}", entry.get("recipe", "as the torch weights"))
        for name, entry in files
    ]
    return _table(("file", "precision", "bytes", "made with"), rows)


def _dev(files: Files) -> str:
    """Accuracy by domain, and what each precision cost."""
    scored = [(entry["precision"], entry["dev"]) for _, entry in files if "dev" in entry]
    if not scored:
        return "Accuracy was not measured: no smaller precision was asked for."
    domains = list(scored[0][1]["accuracy"])
    rows = [(d, *(f"{dev['accuracy'].get(d, float('nan')):.3f}" for _, dev in scored)) for d in domains]
    rows.append(("average", *(f"{_mean(dev['accuracy']):.3f}" for _, dev in scored)))
    rows.append(("lost, points", *(f"{dev['drop']:.2f}" for _, dev in scored)))
    padded = (f"{dev['padded_drop']:.2f}" if "padded_drop" in dev else "0.00" for _, dev in scored)
    rows.append(("lost in padded batches, points", *padded))
    said = "Accuracy on the dev split, which also chose how each file was made; points are lost from the torch weights."
    return f"{said}\n\n" + _table(("domain", *(precision for precision, _ in scored)), rows)


def _mean(accuracy: Mapping[str, float]) -> float:
    return sum(accuracy.values()) / len(accuracy)


def _latency(files: Files) -> str:
    timed = [(entry["precision"], entry) for _, entry in files if entry.get("latency")]
    if not timed:
        return "Latency was not measured."
    cells = list(dict.fromkeys((f["tokens"], f["threads"]) for _, entry in timed for f in entry["latency"]))
    rows = []
    for tokens, threads in cells:
        row = [str(tokens), str(threads)]
        for _, entry in timed:
            found = [f for f in entry["latency"] if (f["tokens"], f["threads"]) == (tokens, threads)]
            row.append(f"{found[0]['p50']:.2f} / {found[0]['p95']:.2f}" if found else "-")
        rows.append(tuple(row))
    machines = " and ".join(dict.fromkeys(entry["machine"] for _, entry in timed))
    lines = [
        f"Milliseconds of a forward pass, batch 1, p50 / p95, on {machines}:",
        _table(("tokens", "threads", *(precision for precision, _ in timed)), rows),
        *_slower(timed),
    ]
    return "\n\n".join(lines)


def _slower(timed: Files) -> list[str]:
    """Say which precisions are slower than fp32."""
    figures = {p: tuple(Latency(f["tokens"], f["threads"], f["p50"], f["p95"]) for f in e["latency"]) for p, e in timed}
    fp32 = figures.get("fp32", ())
    slow = [f"{p} is slower than fp32 at {places}." for p, f in figures.items() if (places := slower_than(f, fp32))]
    return [" ".join(slow)] if slow else []


def _needs(files: Files) -> str:
    lines = []
    for name, entry in files:
        opset = " and ".join(f"{domain} {version}" for domain, version in entry["opset"].items())
        line = f"- `{name}`: operator sets {opset}; the oldest onnxruntime that files of these operators ran with: "
        line += entry["oldest_onnxruntime"]
        if "target" in entry:
            line += f"; made for {entry['target']} ({entry['weight_bits']}-bit weights)"
        lines.append(line)
    return "What they need:\n\n" + "\n".join(lines)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---"] + ["---:"] * (len(columns) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in (columns, rule, *rows))
