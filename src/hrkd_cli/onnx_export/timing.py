"""How long the files of an export take, measured while they can still be compared with each other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hrkd_cli.evaluation.latency_table import LengthLatency, measure_lengths, slower_cells
from hrkd_cli.events import Note, OnEvent
from hrkd_cli.layout import ONNX
from hrkd_cli.machine import usable_cpus

Figures = tuple[LengthLatency, ...]

NOISE = 1.05
"""A file counts as slower than fp32 from 5 % on: less is noise of the clock."""


def time_files(files: Mapping[str, Path], root: Path, *, on_event: OnEvent) -> dict[str, Figures]:
    """Time files in turns with one thread and with all, and say which are slower than fp32, and where.

    Args:
        files: by name, fp32 among them.
        root: folder of config.json.
        on_event: told how far it is.
    """
    threads = sorted({1, usable_cpus()})
    figures = measure_lengths(files, threads=threads, root=root, on_event=on_event)
    for name in files:
        if text := slower_than(figures[name], figures[ONNX.fp32]):
            on_event(Note(f"{name} is slower than fp32 here at {text}", warning=True))
    return figures


def slower_than(one: Figures, fp32: Figures) -> str:
    """Say at which token counts and threads a file is slower than fp32; empty where it is not."""
    relaxed = [LengthLatency(f.tokens, f.threads, NOISE * f.p50, f.p95) for f in fp32]
    places = slower_cells(one, relaxed)
    by_threads: dict[int, list[str]] = {}
    for place in places:
        by_threads.setdefault(place.threads, []).append(str(place.tokens))
    return "; ".join(
        f"{', '.join(tokens)} tokens with {threads} thread{'s' if threads != 1 else ''}"
        for threads, tokens in by_threads.items()
    )
