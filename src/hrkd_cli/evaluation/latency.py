"""How long models take: from text to logits, and a forward pass by number of tokens and threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hrkd_cli.data.dataset import Dataset
from hrkd_cli.events import OnEvent, Progress, ignore
from hrkd_cli.predict.backend import Backend, open_backend, open_session
from hrkd_cli.predict.folder import locate, read_spec

LENGTHS = (16, 32, 64, 128, 256)
WARM_UP = 10
RUNS = 100
FEWEST_RUNS = 20
TURN = 10
TURN_WARM_UP = 3
TEXT_SECONDS = 10.0
"""For the timing of one text; the fewest runs may take longer."""
LENGTH_SECONDS = 0.5
"""For each model, length and number of threads, likewise."""
SAMPLE = 500
"""Rows among which a text of median length is looked for."""

_POSITION_OFFSET = 2  # RoBERTa's position table begins after its padding id


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds for one text.

    Attributes:
        tokens: tokens of the text.
        threads: threads of a forward pass.
        p50: median.
        p95: 95th percentile.
        batch: rows at once.
    """

    tokens: int
    threads: int
    p50: float
    p95: float
    batch: int = 1

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as plain values."""
        times = {"p50": round(self.p50, 4), "p95": round(self.p95, 4)}
        return {"tokens": self.tokens, "threads": self.threads, "batch": self.batch, **times}


def typical_row(backend: Backend, dataset: Dataset, split: str) -> tuple[str, str | None, int]:
    """Return the text (and second text) of median token count, and that count, over evenly spread rows of a split."""
    rows = [dataset.split(domain, split) for domain in dataset.domains]
    texts = [text for part in rows for text in part.texts]
    pairs = [text for part in rows for text in part.pairs or ()]
    chosen = np.linspace(0, len(texts) - 1, num=min(SAMPLE, len(texts))).round().astype(int)
    texts, pairs = [texts[i] for i in chosen], [pairs[i] for i in chosen] if pairs else []
    lengths = [len(e) for e in backend.encoder.encode(texts, pairs or None)]
    median = sorted(range(len(lengths)), key=lengths.__getitem__)[(len(lengths) - 1) // 2]
    return texts[median], pairs[median] if pairs else None, lengths[median]


def measure_text(
    backend: Backend, text: str, pair: str | None, *, threads: int, clock: Callable[[], float] = time.perf_counter
) -> Latency:
    """Time a loaded classifier from text to logits, tokenization included; ``threads`` is what it was opened with."""
    texts, pairs = [text], None if pair is None else [pair]
    tokens = len(backend.encoder.encode(texts, pairs)[0])
    calls = {"": lambda: backend.logits(texts, pairs, batch_size=1)}
    return Latency(tokens, threads, *take_turns(calls, TEXT_SECONDS, clock)[""])


def measure_lengths(
    models: Mapping[str, str | Path],
    *,
    threads: Sequence[int],
    device: str = "auto",
    root: Path | None = None,
    on_event: OnEvent = ignore,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, tuple[Latency, ...]]:
    """Time forward passes of models side by side at batch 1, at those of ``LENGTHS`` that all of them can read.

    Args:
        models: by name: folders, ``onnx`` folders or ``.onnx`` files.
        threads: numbers of threads, in the order of the result.
        device: where torch models run.
        root: folder of config.json for graphs that do not lie in one.
        on_event: told how far it is.
        clock: seconds.
    """
    found: dict[str, list[Latency]] = {name: [] for name in models}
    done = 0
    for count in threads:
        opened = {name: _open(model, count, device, root) for name, model in models.items()}
        lengths = [n for n in LENGTHS if n <= min(longest for _, longest in opened.values())]
        for tokens in lengths:
            # Which tokens does not matter to the time, and every vocabulary has id 1.
            ids = np.ones((1, tokens), dtype=np.int64)
            arrays = {"input_ids": ids, "attention_mask": ids, "token_type_ids": np.zeros_like(ids)}
            calls = {name: partial(forward, arrays) for name, (forward, _) in opened.items()}
            for name, times in take_turns(calls, LENGTH_SECONDS, clock).items():
                found[name].append(Latency(tokens, count, *times))
            done += 1
            on_event(Progress("timing", done, len(lengths) * len(threads)))
    return {name: tuple(times) for name, times in found.items()}


def take_turns(
    calls: Mapping[str, Callable[[], object]], seconds: float, clock: Callable[[], float] = time.perf_counter
) -> dict[str, tuple[float, float]]:
    """Return the median and the 95th percentile of each call in milliseconds, after a warm-up.

    Every call is made a few times, again and again: what slows the machine for a while slows all of them. Not once
    each: the threads of the call before still spin for a while, and would take the processor from the next.

    Args:
        calls: by name.
        seconds: budget for each, within which there are up to ``RUNS`` runs, but no fewer than ``FEWEST_RUNS``.
        clock: seconds.
    """
    slowest = 0.0
    for call in calls.values():
        start = clock()
        for _ in range(WARM_UP):
            call()
        slowest = max(slowest, (clock() - start) / WARM_UP)
    runs = min(RUNS, max(FEWEST_RUNS, int(seconds / slowest))) if slowest > 0 else RUNS
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs // TURN):
        for name, call in calls.items():
            for _ in range(TURN_WARM_UP):
                call()
            for _ in range(TURN):
                start = clock()
                call()
                times[name].append(1000 * (clock() - start))
    return {name: (float(np.percentile(taken, 50)), float(np.percentile(taken, 95))) for name, taken in times.items()}


def _open(model: str | Path, threads: int, device: str, root: Path | None) -> tuple[Callable[[Any], object], int]:
    """Return a forward pass, and the most tokens it can read."""
    location = locate(model) if root is None else None
    graph = location.graph if location is not None else Path(model) if root is not None else None
    if graph is None:
        backend: Any = open_backend(model, threads=threads, device=device)
        return backend.forward, _longest(backend.spec.config)
    session = open_session(graph, threads=threads)
    names = [entry.name for entry in session.get_inputs()]
    config = read_spec(location.root if location is not None else root or graph.parent).config
    return lambda arrays: session.run(None, {name: arrays[name] for name in names}), _longest(config)


def _longest(config: Mapping[str, Any]) -> int:
    positions = config.get("max_position_embeddings")
    return int(positions) - _POSITION_OFFSET if positions else max(LENGTHS)
