"""How long a forward pass takes by number of tokens and threads, several models taking turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hrkd_cli.evaluation.latency import WARM_UP, percentiles
from hrkd_cli.events import OnEvent, Progress, ignore
from hrkd_cli.predict.backend import open_backend
from hrkd_cli.predict.folder import locate, read_spec

LENGTHS = (16, 32, 64, 128, 256)
RUNS = 100
FEWEST_RUNS = 20
TURN = 10
TURN_WARM_UP = 3
BUDGET_SECONDS = 0.5
"""For each model, length and number of threads; the fewest runs may take longer."""

_POSITION_OFFSET = 2  # RoBERTa's position table begins after its padding id

Arrays = Mapping[str, npt.NDArray[np.int64]]
Forward = Callable[[Arrays], object]


@dataclass(frozen=True, slots=True)
class LengthLatency:
    """Milliseconds of a forward pass of one text, without tokenising.

    Attributes:
        tokens: tokens of the text.
        threads: threads of the pass.
        p50: median.
        p95: 95th percentile.
    """

    tokens: int
    threads: int
    p50: float
    p95: float

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain values."""
        figures = {"p50": round(self.p50, 4), "p95": round(self.p95, 4)}
        return {"tokens": self.tokens, "threads": self.threads, "batch": 1, **figures}


def measure_lengths(
    models: Mapping[str, str | Path],
    *,
    threads: Sequence[int],
    device: str = "auto",
    root: Path | None = None,
    on_event: OnEvent = ignore,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, tuple[LengthLatency, ...]]:
    """Time models side by side at batch 1, those of ``LENGTHS`` that all of them can read.

    Args:
        models: by name: folders, ``onnx`` folders or ``.onnx`` files.
        threads: numbers of threads, in the order of the result.
        device: where torch models run.
        root: folder of config.json for graphs that do not lie in one.
        on_event: told how far it is.
        clock: seconds.
    """
    found: dict[str, list[LengthLatency]] = {name: [] for name in models}
    done = 0
    for count in threads:
        opened = {name: _open(model, count, device, root) for name, model in models.items()}
        lengths = [n for n in LENGTHS if n <= min(longest for _, longest in opened.values())]
        for tokens in lengths:
            arrays = _arrays(tokens)
            taken = _take_turns({name: forward for name, (forward, _) in opened.items()}, arrays, clock)
            for name, times in taken.items():
                found[name].append(LengthLatency(tokens, count, *percentiles(times)))
            done += 1
            on_event(Progress("timing", done, len(lengths) * len(threads)))
    return {name: tuple(figures) for name, figures in found.items()}


def slower_cells(one: Sequence[LengthLatency], other: Sequence[LengthLatency]) -> list[LengthLatency]:
    """Return the figures of ``one`` whose median is above that of ``other`` at the same length and threads."""
    medians = {(figure.tokens, figure.threads): figure.p50 for figure in other}
    return [f for f in one if f.p50 > medians.get((f.tokens, f.threads), float("inf"))]


def _take_turns(forwards: Mapping[str, Forward], arrays: Arrays, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Run every model a few times, again and again: what slows the machine for a while slows all of them.

    Not once each: the threads of the model before still spin for a while, and would take the processor from the next.
    """
    slowest = 0.0
    for forward in forwards.values():
        start = clock()
        for _ in range(WARM_UP):
            forward(arrays)
        slowest = max(slowest, (clock() - start) / WARM_UP)
    runs = min(RUNS, max(FEWEST_RUNS, int(BUDGET_SECONDS / slowest))) if slowest > 0 else RUNS
    taken: dict[str, list[float]] = {name: [] for name in forwards}
    for _ in range(runs // TURN):
        for name, forward in forwards.items():
            for _ in range(TURN_WARM_UP):
                forward(arrays)
            for _ in range(TURN):
                start = clock()
                forward(arrays)
                taken[name].append(1000 * (clock() - start))
    return taken


def _open(model: str | Path, threads: int, device: str, root: Path | None) -> tuple[Forward, int]:
    """Return a forward pass, and the most tokens it can read."""
    location = locate(model) if root is None else None
    graph = Path(model) if root is not None else location.graph if location is not None else None
    if graph is None:
        backend: Any = open_backend(model, threads=threads, device=device)
        return backend.forward, _longest(backend.spec.config)
    from hrkd_cli.predict.backend import open_session

    session = open_session(graph, threads=threads)
    names = [entry.name for entry in session.get_inputs()]
    folder = root if root is not None else location.root if location is not None else graph.parent
    config = read_spec(folder).config
    return lambda arrays: session.run(None, {name: arrays[name] for name in names}), _longest(config)


def _longest(config: Mapping[str, Any]) -> int:
    positions = config.get("max_position_embeddings")
    return int(positions) - _POSITION_OFFSET if positions else max(LENGTHS)


def _arrays(tokens: int) -> Arrays:
    """Return a text of that many tokens; which ones does not matter to the time, and every vocabulary has these ids."""
    ids = np.full((1, tokens), 1, dtype=np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
