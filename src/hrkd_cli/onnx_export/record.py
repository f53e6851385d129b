"""What is written about exported files: ``onnx/export.json``, and a part of the folder's README.md."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime

from hrkd_cli import __version__
from hrkd_cli.cards import render_section
from hrkd_cli.evaluation.graph import read_graph
from hrkd_cli.layout import MODEL, ONNX
from hrkd_cli.onnx_export.gate import AccuracyGate, accuracies, points_lost
from hrkd_cli.onnx_export.recipes import FORMATS, Precision
from hrkd_cli.onnx_export.result import Try, best_try
from hrkd_cli.predict.folder import read_json_or_empty

FORMAT = 1
BEGIN = "<!-- hrkd export: begin -->"
END = "<!-- hrkd export: end -->"
NOISE = 1.05
"""A file counts as slower than fp32 from 5 % on: less is noise of the clock."""

Entry = dict[str, Any]
"""What is known of one file."""


def read_record(folder: Path) -> dict[str, Entry]:
    """Read the entries of an ``onnx`` folder by file name; none where the record is absent or foreign."""
    try:
        content = read_json_or_empty(folder / ONNX.record)
        files = content["files"] if content["format"] == FORMAT else {}
        return {name: dict(entry) for name, entry in files.items() if (folder / name).is_file()}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def write_record(folder: Path, entries: dict[str, Entry]) -> None:
    """Write the entries into a folder."""
    content = {"format": FORMAT, "files": dict(sorted(entries.items()))}
    text = json.dumps(content, indent=2, ensure_ascii=False)
    (folder / ONNX.record).write_text(text + "\n", encoding="utf-8")


def file_entry(path: Path, precision: Precision, tries: Sequence[Try], gate: AccuracyGate | None) -> Entry:
    """Describe one file.

    Args:
        path: where it lies now.
        precision: of the file.
        tries: the recipes that were tried for it; none for fp32.
        gate: what scored it; None where nothing was scored. Losses count from the folder's own torch weights.
    """
    model = read_graph(path)
    entry: Entry = {
        "precision": str(precision),
        "bytes": path.stat().st_size,
        "opset": {item.domain or "ai.onnx": item.version for item in model.opset_import},
        "oldest_onnxruntime": FORMATS[precision].oldest_onnxruntime,
        "versions": {"hrkd-cli": __version__, "onnxruntime": onnxruntime.__version__},
    }
    if gate is not None:
        own = accuracies(gate.scores)
        # The fp32 graph gives the model's logits, hence its labels.
        dev: Entry = {"accuracy": own, "drop": 0.0}
        if tries:
            best = best_try(tries)
            drops = [points_lost(own, one.gate.accuracy) for one in tries]
            entry["recipe"] = best.recipe
            entry["tries"] = [{**one.to_json(), "drop": drop} for one, drop in zip(tries, drops, strict=True)]
            dev = {"accuracy": dict(best.gate.accuracy), "drop": points_lost(own, best.gate.accuracy)}
            dev |= {"max_drop": best.gate.max_drop, "padded_drop": best.padded_drop}
        entry["dev"] = dev
    facts = {item.key: item.value for item in model.metadata_props}
    if target := facts.get("hrkd.target"):
        entry |= {"target": target, "weight_bits": int(facts["hrkd.weight_bits"])}
    return entry


def slower_than(one: Entry, fp32: Entry) -> str:
    """Say at which token counts and threads a file is slower than fp32; empty where it is not, or was not timed."""
    medians = {(cell["tokens"], cell["threads"]): cell["p50"] for cell in fp32.get("latency", ())}
    by_threads: dict[int, list[str]] = {}
    for cell in one.get("latency", ()):
        if cell["p50"] > NOISE * medians.get((cell["tokens"], cell["threads"]), float("inf")):
            by_threads.setdefault(cell["threads"], []).append(str(cell["tokens"]))
    return "; ".join(
        f"{', '.join(tokens)} tokens with {threads} thread{'s' if threads != 1 else ''}"
        for threads, tokens in by_threads.items()
    )


def find_card(*folders: Path) -> str:
    """Return the card of the first folder that has one, else a title."""
    cards = (folder / MODEL.readme for folder in folders)
    found = next((card for card in cards if card.is_file()), None)
    return found.read_text(encoding="utf-8") if found is not None else "# Text classifier\n"


def place_section(card: str, text: str) -> str:
    """Put a section into a card, in the place of an earlier one or at the end."""
    marked = f"{BEGIN}\n{text.strip()}\n{END}"
    before, begin, rest = card.partition(BEGIN)
    _, end, after = rest.partition(END)
    if begin and end:
        return before + marked + after
    return f"{card.rstrip()}\n\n{marked}\n"


def onnx_section(entries: dict[str, Entry]) -> str:
    """Describe exported files: size, accuracy by domain, latency, and what they need."""
    files = sorted(entries.items(), key=lambda item: (item[0] != ONNX.fp32, item[0]))
    timed = [entry for _, entry in files if entry.get("latency")]
    columns = [{(cell["tokens"], cell["threads"]): cell for cell in entry["latency"]} for entry in timed]
    rows = dict.fromkeys(key for column in columns for key in column)
    slower = {entry["precision"]: slower_than(entry, entries.get(ONNX.fp32, {})) for entry in timed}
    return render_section(
        "onnx.md.j2",
        files=files,
        scored=[entry for _, entry in files if "dev" in entry],
        timed=timed,
        latency=[(key, [column.get(key) for column in columns]) for key in rows],
        slower=[f"{name} is slower than fp32 at {where}." for name, where in slower.items() if where],
        nan=float("nan"),
    )
