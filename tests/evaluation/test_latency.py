import itertools
from types import SimpleNamespace

import pytest

from hrkd_cli.evaluation.latency import FEWEST_RUNS, RUNS, WARM_UP, measure, percentiles, typical_row
from tiny_folder import make_dataset


class FakeEncoder:
    def encode(self, texts, pairs=None):
        return [text.split() for text in texts]


class FakeBackend:
    """Takes one tick more of a fake clock at every call."""

    encoder = FakeEncoder()

    def __init__(self, tick):
        self.now = 0.0
        self.tick = tick
        self.calls = []

    def logits(self, texts, pairs=None, *, batch_size=1, pad_to=None):
        self.calls.append((list(texts), batch_size, pad_to))
        self.now += self.tick

    def clock(self):
        return self.now


def test_the_text_of_median_token_count_is_timed():
    texts = [" ".join(["x"] * n) for n in (9, 1, 5, 3, 7)]
    dataset = make_dataset({"a": {"test": (texts[:2], ["l", "l"])}, "b": {"test": (texts[2:], ["l"] * 3)}})
    assert typical_row(SimpleNamespace(encoder=FakeEncoder()), dataset, "test") == ("x x x x x", None, 5)


def test_runs_are_timed_one_text_at_a_time_after_a_warm_up():
    backend = FakeBackend(0.002)
    found = measure(backend, "a b c", None, threads=3, clock=backend.clock)
    assert backend.calls == list(itertools.repeat((["a b c"], 1, None), WARM_UP + RUNS))
    assert (found.batch, found.tokens, found.threads) == (1, 3, 3)
    assert (found.p50, found.p95) == (pytest.approx(2), pytest.approx(2))
    assert set(found.to_json()) == {"p50", "p95", "batch", "tokens", "threads"}


def test_slow_models_are_run_less_often():
    backend = FakeBackend(3.0)
    measure(backend, "a", None, threads=1, clock=backend.clock)
    assert len(backend.calls) == WARM_UP + FEWEST_RUNS


def test_percentiles():
    assert percentiles([float(n) for n in range(101)]) == (50, 95)
