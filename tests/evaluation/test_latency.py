from types import SimpleNamespace

import numpy as np
import pytest

from hrkd_cli.data.dataset import TextRows
from hrkd_cli.evaluation import latency
from hrkd_cli.evaluation.latency import (
    BURST,
    BURST_WARM_UP,
    MAX_RUNS,
    MIN_RUNS,
    WARM_UP,
    measure_end_to_end,
    measure_forward,
    median_length_text,
    time_interleaved,
)


@pytest.fixture
def clock(monkeypatch):
    """The clock that times are read from; fake models move it."""
    fake = SimpleNamespace(now=0.0)
    monkeypatch.setattr(latency, "time", SimpleNamespace(perf_counter=lambda: fake.now))
    return fake


class FakeTokenizer:
    def encode(self, texts, pairs=None):
        return [text.split() for text in texts]


class FakeBackend:
    """Takes one tick more of the clock at every call."""

    tokenizer = FakeTokenizer()

    def __init__(self, clock, tick):
        self.clock = clock
        self.tick = tick
        self.calls = []

    def logits(self, texts, pairs=None, *, batch_size=1, pad_to=None):
        self.calls.append((list(texts), batch_size, pad_to))
        self.clock.now += self.tick


def test_the_text_of_median_token_count_is_timed():
    texts = [" ".join(["x"] * n) for n in (9, 1, 5, 3, 7)]
    rows = {"a": TextRows(texts[:2], None, []), "b": TextRows(texts[2:], None, [])}
    assert median_length_text(SimpleNamespace(tokenizer=FakeTokenizer()), rows) == ("x x x x x", None)


def test_a_text_is_timed_at_batch_size_1_after_a_warm_up(clock):
    backend = FakeBackend(clock, 0.002)
    found = measure_end_to_end(backend, "a b c", None, threads=3)
    calls = WARM_UP + MAX_RUNS // BURST * (BURST_WARM_UP + BURST)
    assert backend.calls == [(["a b c"], 1, None)] * calls
    assert (found.batch, found.tokens, found.threads) == (1, 3, 3)
    assert (found.p50, found.p95) == (pytest.approx(2), pytest.approx(2))
    assert set(found.to_json()) == {"p50", "p95", "batch", "tokens", "threads"}


def test_slow_models_run_fewer_times(clock):
    backend = FakeBackend(clock, 3.0)
    measure_end_to_end(backend, "a", None, threads=1)
    assert len(backend.calls) == WARM_UP + MIN_RUNS // BURST * (BURST_WARM_UP + BURST)


def test_warm_up_runs_do_not_count_in_the_percentiles(clock):
    taken = iter([5.0] * WARM_UP + ([9.0] * BURST_WARM_UP + [1.0, *range(2, 11)]) * 2)

    def call():
        clock.now += next(taken) / 1000

    assert time_interleaved({"a": call}, 0.0)["a"] == (pytest.approx(5.5), pytest.approx(10))


@pytest.fixture
def fakes(clock):
    """Models that take 1 ms a token, or twice as much; and the order in which they ran."""
    ran = []

    def opener(model, max_length=1000, factor=1):
        def open_model(threads):
            def forward(arrays):
                assert arrays["input_ids"].shape == arrays["attention_mask"].shape == arrays["token_type_ids"].shape
                assert arrays["attention_mask"].all()
                ran.append((model, threads, arrays["input_ids"].shape))
                clock.now += arrays["input_ids"].size * factor * 0.001 / threads

            return SimpleNamespace(forward=forward, spec=SimpleNamespace(max_length=max_length))

        return open_model

    models = {"fast": opener("fast"), "slow": opener("slow", factor=2)}
    return {**models, "short": opener("short", 70), "tiny": opener("tiny", 12)}, ran


def test_every_length_is_timed_with_every_number_of_threads(fakes):
    models, ran = fakes
    found = measure_forward({"a": models["fast"], "b": models["slow"]}, threads=(1, 2))
    cells = [(n, t) for t in (1, 2) for n in (16, 32, 64, 128, 256)]
    assert [(f.tokens, f.threads) for f in found["a"]] == cells
    for name, factor in (("a", 1), ("b", 2)):
        for figure in found[name]:
            assert [figure.p50, figure.p95] == pytest.approx([factor * figure.tokens / figure.threads] * 2)
    assert {shape for _, _, shape in ran} == {(1, n) for n in (16, 32, 64, 128, 256)}


def test_models_alternate_in_bursts(fakes):
    models, ran = fakes
    measure_forward({"a": models["fast"], "b": models["slow"]}, threads=(1,))
    order = [model for model, _, shape in ran if shape == (1, 256)]
    order = order[2 * latency.WARM_UP :]
    changes = int(np.sum(np.array(order[1:]) != np.array(order[:-1])))
    assert changes == len(order) // (latency.BURST + latency.BURST_WARM_UP) - 1 >= 3


def test_lengths_that_a_model_truncates_are_skipped_for_all_models(fakes):
    models, _ = fakes
    found = measure_forward({"a": models["short"], "b": models["fast"]}, threads=(1,))
    assert [f.tokens for f in found["a"]] == [f.tokens for f in found["b"]] == [16, 32, 64]
    found = measure_forward({"a": models["tiny"], "b": models["fast"]}, threads=(1,))
    assert [f.tokens for f in found["b"]] == [12]
