"""How long a classifier takes for one text."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hrkd_cli.data.dataset import Dataset
from hrkd_cli.predict.backend import Backend

WARM_UP = 10
RUNS = 100
FEWEST_RUNS = 20
BUDGET_SECONDS = 10.0
SAMPLE = 500


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds from text to logits, tokenising included, one text at a time.

    Attributes:
        p50: median.
        p95: 95th percentile.
        batch: rows at once (1).
        tokens: tokens of the text that was timed.
        threads: threads of a forward pass.
    """

    p50: float
    p95: float
    batch: int
    tokens: int
    threads: int

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain values."""
        return {
            "p50": round(self.p50, 4),
            "p95": round(self.p95, 4),
            "batch": self.batch,
            "tokens": self.tokens,
            "threads": self.threads,
        }


def typical_row(backend: Backend, dataset: Dataset, split: str) -> tuple[str, str | None, int]:
    """Return the text (and second text) of median token count, and that count, over evenly spread rows of a split."""
    texts: list[str] = []
    pairs: list[str] = []
    for domain in dataset.domains:
        rows = dataset.split(domain, split)
        texts += rows.texts
        pairs += rows.pairs or []
    chosen = np.linspace(0, len(texts) - 1, num=min(SAMPLE, len(texts))).round().astype(int)
    texts, pairs = [texts[i] for i in chosen], [pairs[i] for i in chosen] if pairs else []
    lengths = [len(e) for e in backend.encoder.encode(texts, pairs or None)]
    median = sorted(range(len(lengths)), key=lengths.__getitem__)[(len(lengths) - 1) // 2]
    return texts[median], pairs[median] if pairs else None, lengths[median]


def measure(
    backend: Backend,
    text: str,
    pair: str | None,
    *,
    threads: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Latency:
    """Time one text: warm-up runs first, then up to ``RUNS``, fewer when they would take longer than the budget.

    Args:
        backend: a loaded classifier.
        text: the text.
        pair: its second text, where the classifier reads two.
        threads: what the classifier was opened with, for the record.
        clock: seconds.
    """
    texts, pairs = [text], None if pair is None else [pair]
    tokens = len(backend.encoder.encode(texts, pairs)[0])
    start = clock()
    for _ in range(WARM_UP):
        backend.logits(texts, pairs, batch_size=1)
    runs = _runs_within_budget((clock() - start) / WARM_UP)
    times = []
    for _ in range(runs):
        start = clock()
        backend.logits(texts, pairs, batch_size=1)
        times.append(1000 * (clock() - start))
    p50, p95 = percentiles(times)
    return Latency(p50, p95, 1, tokens, threads)


def _runs_within_budget(seconds: float) -> int:
    if seconds <= 0:
        return RUNS
    return min(RUNS, max(FEWEST_RUNS, int(BUDGET_SECONDS / seconds)))


def percentiles(times: Sequence[float]) -> tuple[float, float]:
    """Return the median and the 95th percentile (linear interpolation)."""
    p50, p95 = np.percentile(np.asarray(times), [50, 95])
    return float(p50), float(p95)
