"""How long models take: from text to logits, and a forward pass by number of tokens and threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from timeit import repeat
from typing import Any

import numpy as np

from hrkd_cli.data.dataset import TextRows
from hrkd_cli.events import OnEvent, Progress, ignore
from hrkd_cli.predict.backend import Backend
from hrkd_cli.predict.model_spec import position_limit

LENGTHS = (16, 32, 64, 128, 256)
WARM_UP = 10
RUNS = 100
FEWEST_RUNS = 20
TURN = 10
TURN_WARM_UP = 3
TEXT_SECONDS = 10.0  # for the timing of one text
LENGTH_SECONDS = 0.5  # for each model, length and number of threads
SAMPLE = 500  # rows among which a text of median length is looked for


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds for one text, median and 95th percentile, at a number of tokens and of threads."""

    tokens: int
    threads: int
    p50: float
    p95: float
    batch: int = 1

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as plain values."""
        times = {"p50": round(self.p50, 4), "p95": round(self.p95, 4)}
        return {"tokens": self.tokens, "threads": self.threads, "batch": self.batch, **times}


def sample_texts(rows: Mapping[str, TextRows], count: int) -> tuple[list[str], list[str] | None]:
    """Return at most ``count`` evenly spread texts of all domains, and their second texts where they have some."""
    texts = [text for part in rows.values() for text in part.texts]
    pairs = [text for part in rows.values() for text in part.pairs or ()]
    chosen = np.linspace(0, len(texts) - 1, num=min(count, len(texts))).round().astype(int)
    return [texts[i] for i in chosen], [pairs[i] for i in chosen] if pairs else None


def median_length_text(backend: Backend, rows: Mapping[str, TextRows]) -> tuple[str, str | None]:
    """Return the text (and second text) of median token count, over evenly spread rows of all domains."""
    texts, pairs = sample_texts(rows, SAMPLE)
    lengths = [len(example) for example in backend.tokenizer.encode(texts, pairs)]
    median = sorted(range(len(lengths)), key=lengths.__getitem__)[(len(lengths) - 1) // 2]
    return texts[median], pairs[median] if pairs else None


def measure_end_to_end(backend: Backend, text: str, pair: str | None, *, threads: int) -> Latency:
    """Time a loaded classifier from text to logits, tokenization included; ``threads`` is what it was opened with."""
    texts, pairs = [text], None if pair is None else [pair]
    tokens = len(backend.tokenizer.encode(texts, pairs)[0])
    calls = {"": lambda: backend.logits(texts, pairs, batch_size=1)}
    return Latency(tokens, threads, *time_interleaved(calls, TEXT_SECONDS)[""])


def measure_forward(
    models: Mapping[str, Callable[..., Backend]], *, threads: Sequence[int], on_event: OnEvent = ignore
) -> dict[str, tuple[Latency, ...]]:
    """Time forward passes of models side by side at batch 1, at those of ``LENGTHS`` that all of them can read.

    ``models`` are functions that open a model with a number of threads, by name.
    """
    found: dict[str, list[Latency]] = {name: [] for name in models}
    done = 0
    for count in threads:
        opened = {name: open_model(threads=count) for name, open_model in models.items()}
        longest = min(position_limit(backend.spec.config) or LENGTHS[-1] for backend in opened.values())
        lengths = [tokens for tokens in LENGTHS if tokens <= longest]
        for tokens in lengths:
            # Which tokens does not matter to the time, and every vocabulary has id 1.
            ids = np.ones((1, tokens), dtype=np.int64)
            arrays = {"input_ids": ids, "attention_mask": ids, "token_type_ids": np.zeros_like(ids)}
            calls = {name: partial(backend.forward, arrays) for name, backend in opened.items()}
            for name, times in time_interleaved(calls, LENGTH_SECONDS).items():
                found[name].append(Latency(tokens, count, *times))
            done += 1
            on_event(Progress("timing", done, len(lengths) * len(threads)))
    return {name: tuple(times) for name, times in found.items()}


def time_interleaved(calls: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, tuple[float, float]]:
    """Return the median and the 95th percentile of each call in milliseconds, after a warm-up.

    Every call is made a few times, again and again: what slows the machine for a while slows all of them. Not once
    each: the threads of the call before still spin for a while, and would take the processor from the next. Within
    ``seconds`` for each call there are up to ``RUNS`` runs, but no fewer than ``FEWEST_RUNS``.
    """
    timed = partial(repeat, timer=time.perf_counter, number=1)
    slowest = max(sum(timed(call, repeat=WARM_UP)) / WARM_UP for call in calls.values())
    runs = min(RUNS, max(FEWEST_RUNS, int(seconds / slowest))) if slowest > 0 else RUNS
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs // TURN):
        for name, call in calls.items():
            timed(call, repeat=TURN_WARM_UP)
            times[name] += timed(call, repeat=TURN)
    return {
        name: (1e3 * float(np.median(taken)), 1e3 * float(np.percentile(taken, 95))) for name, taken in times.items()
    }
