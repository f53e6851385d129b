"""Latency of models: end to end, and of a forward pass by number of tokens and threads."""

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

LENGTHS = (16, 32, 64, 128, 256)
WARM_UP = 10
MAX_RUNS = 100
MIN_RUNS = 20
BURST = 10  # timed runs of one model before the next model's
BURST_WARM_UP = 3
END_TO_END_SECONDS = 10.0
FORWARD_SECONDS = 0.5  # per model, length and number of threads
SAMPLE_SIZE = 500  # texts from which the one of median length is chosen


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds per text (median and 95th percentile) for a number of tokens and threads."""

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
    """Return up to ``count`` evenly spaced texts of all domains, and their second texts if the rows are pairs."""
    texts = [text for part in rows.values() for text in part.texts]
    pairs = [text for part in rows.values() for text in part.pairs or ()]
    indices = np.linspace(0, len(texts) - 1, num=min(count, len(texts))).round().astype(int)
    return [texts[i] for i in indices], [pairs[i] for i in indices] if pairs else None


def median_length_text(backend: Backend, rows: Mapping[str, TextRows]) -> tuple[str, str | None]:
    """Return the text (or pair) with the median number of tokens, in a sample of all domains."""
    texts, pairs = sample_texts(rows, SAMPLE_SIZE)
    lengths = [len(example) for example in backend.tokenizer.encode(texts, pairs)]
    median = sorted(range(len(lengths)), key=lengths.__getitem__)[(len(lengths) - 1) // 2]
    return texts[median], pairs[median] if pairs else None


def measure_end_to_end(backend: Backend, text: str, pair: str | None, *, threads: int) -> Latency:
    """Time a classifier from text to logits, including tokenization; ``threads`` is the number it was opened with."""
    texts, pairs = [text], None if pair is None else [pair]
    tokens = len(backend.tokenizer.encode(texts, pairs)[0])
    p50, p95 = time_interleaved({"": lambda: backend.logits(texts, pairs, batch_size=1)}, END_TO_END_SECONDS)[""]
    return Latency(tokens, threads, p50, p95)


def measure_forward(
    models: Mapping[str, Callable[..., Backend]], *, threads: Sequence[int], on_event: OnEvent = ignore
) -> dict[str, tuple[Latency, ...]]:
    """Time forward passes of several models at batch size 1, for the ``LENGTHS`` that none of them truncates.

    ``models`` maps names to functions that open a model with a number of threads.
    """
    latencies: dict[str, list[Latency]] = {name: [] for name in models}
    done = 0
    for count in threads:
        backends = {name: open_model(threads=count) for name, open_model in models.items()}
        max_tokens = min(backend.spec.max_length for backend in backends.values())
        lengths = [tokens for tokens in LENGTHS if tokens <= max_tokens] or [max_tokens]
        for tokens in lengths:
            # The ids do not affect the time, and every vocabulary has id 1.
            ids = np.ones((1, tokens), dtype=np.int64)
            arrays = {"input_ids": ids, "attention_mask": ids, "token_type_ids": np.zeros_like(ids)}
            calls = {name: partial(backend.forward, arrays) for name, backend in backends.items()}
            for name, (p50, p95) in time_interleaved(calls, FORWARD_SECONDS).items():
                latencies[name].append(Latency(tokens, count, p50, p95))
            done += 1
            on_event(Progress("timing", done, len(lengths) * len(threads)))
    return {name: tuple(by_length) for name, by_length in latencies.items()}


def time_interleaved(calls: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, tuple[float, float]]:
    """Return the median and 95th percentile of each call's time in milliseconds, after a warm-up.

    The calls alternate in bursts of ``BURST`` runs, so that a slow phase of the machine slows all of them. Alternating
    single runs would be wrong: the previous call's threads still spin for a while and compete with the next call. Each
    call gets about ``seconds``: at least ``MIN_RUNS`` and at most ``MAX_RUNS`` runs.
    """
    time_runs = partial(repeat, timer=time.perf_counter, number=1)
    slowest = max(sum(time_runs(call, repeat=WARM_UP)) / WARM_UP for call in calls.values())
    runs = min(MAX_RUNS, max(MIN_RUNS, int(seconds / slowest))) if slowest > 0 else MAX_RUNS
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs // BURST):
        for name, call in calls.items():
            time_runs(call, repeat=BURST_WARM_UP)
            times[name] += time_runs(call, repeat=BURST)
    return {name: (1e3 * float(np.median(own)), 1e3 * float(np.percentile(own, 95))) for name, own in times.items()}
