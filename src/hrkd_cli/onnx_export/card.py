"""The part of a folder's README.md that describes its ONNX files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hrkd_cli.cards import render_section
from hrkd_cli.evaluation.latency import Latency
from hrkd_cli.layout import MODEL, ONNX
from hrkd_cli.onnx_export.timing import slower_than

BEGIN = "<!-- hrkd export: begin -->"
END = "<!-- hrkd export: end -->"

Entries = Mapping[str, Mapping[str, Any]]


def find_card(folders: Sequence[Path]) -> str:
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


def onnx_section(entries: Entries) -> str:
    """Describe exported files: size, accuracy by domain, latency, and what they need.

    Args:
        entries: what ``export.json`` has of each file.
    """
    files = sorted(entries.items(), key=lambda item: (item[0] != ONNX.fp32, item[0]))
    timed = [entry for _, entry in files if entry.get("latency")]
    figures = {entry["precision"]: [_figure(one) for one in entry["latency"]] for entry in timed}
    cells = {name: {(one.tokens, one.threads): one for one in found} for name, found in figures.items()}
    rows = list(dict.fromkeys(cell for found in cells.values() for cell in found))
    slower = {name: slower_than(tuple(found), tuple(figures.get("fp32", ()))) for name, found in figures.items()}
    return render_section(
        "onnx.md.j2",
        files=files,
        scored=[entry for _, entry in files if "dev" in entry],
        timed=timed,
        latency=[(cell, [found.get(cell) for found in cells.values()]) for cell in rows],
        slower=[f"{name} is slower than fp32 at {where}." for name, where in slower.items() if where],
        nan=float("nan"),
    )


def _figure(entry: Mapping[str, Any]) -> Latency:
    return Latency(entry["tokens"], entry["threads"], entry["p50"], entry["p95"])
