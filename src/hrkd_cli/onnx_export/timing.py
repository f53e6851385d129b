"""How long the files of an export take, measured while they can still be compared with each other."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from hrkd_cli.evaluation.latency import Latency, measure_lengths
from hrkd_cli.events import Note, OnEvent
from hrkd_cli.layout import ONNX
from hrkd_cli.machine import usable_cpus
from hrkd_cli.predict.backend import OnnxBackend

Figures = tuple[Latency, ...]

NOISE = 1.05
"""A file counts as slower than fp32 from 5 % on: less is noise of the clock."""


def time_files(files: Mapping[str, Path], root: Path, *, on_event: OnEvent) -> dict[str, Figures]:
    """Time files in turns with one thread and with all, and say which are slower than fp32, and where.

    Args:
        files: by name, fp32 among them.
        root: folder of config.json and the tokenizer.
        on_event: told how far it is.
    """
    threads = sorted({1, usable_cpus()})
    openers = {name: partial(OnnxBackend, root, path) for name, path in files.items()}
    found = measure_lengths(openers, threads=threads, on_event=on_event)
    for name in files:
        if text := slower_than(found[name], found[ONNX.fp32]):
            on_event(Note(f"{name} is slower than fp32 here at {text}", warning=True))
    return found


def slower_than(one: Figures, fp32: Figures) -> str:
    """Say at which token counts and threads a file is slower than fp32; empty where it is not."""
    medians = {(cell.tokens, cell.threads): cell.p50 for cell in fp32}
    by_threads: dict[int, list[str]] = {}
    for cell in one:
        if cell.p50 > NOISE * medians.get((cell.tokens, cell.threads), float("inf")):
            by_threads.setdefault(cell.threads, []).append(str(cell.tokens))
    return "; ".join(
        f"{', '.join(tokens)} tokens with {threads} thread{'s' if threads != 1 else ''}"
        for threads, tokens in by_threads.items()
    )
