import numpy as np
import pytest

from hrkd_cli.evaluation import latency_table
from hrkd_cli.evaluation.latency_table import LengthLatency, measure_lengths, slower_cells


class Clock:
    """A clock that a fake model moves."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def fakes(monkeypatch):
    """Models that take 1 ms a token, or twice as much; and the order in which they ran."""
    clock, ran = Clock(), []

    def open_fake(model, threads, device, root):
        def forward(arrays):
            assert arrays["input_ids"].shape == arrays["attention_mask"].shape == arrays["token_type_ids"].shape
            assert arrays["attention_mask"].all()
            ran.append((model, threads, arrays["input_ids"].shape))
            clock.now += arrays["input_ids"].size * (0.002 if model == "slow" else 0.001) / threads

        return forward, 70 if model == "short" else 1000

    monkeypatch.setattr(latency_table, "_open", open_fake)
    return clock, ran


def test_each_length_and_number_of_threads(fakes):
    clock, ran = fakes
    found = measure_lengths({"a": "fast", "b": "slow"}, threads=(1, 2), clock=clock)
    cells = [(n, t) for t in (1, 2) for n in (16, 32, 64, 128, 256)]
    assert [(f.tokens, f.threads) for f in found["a"]] == cells
    for name, factor in (("a", 1), ("b", 2)):
        for figure in found[name]:
            assert [figure.p50, figure.p95] == pytest.approx([factor * figure.tokens / figure.threads] * 2)
    assert {shape for _, _, shape in ran} == {(1, n) for n in (16, 32, 64, 128, 256)}


def test_models_take_turns(fakes):
    clock, ran = fakes
    measure_lengths({"a": "fast", "b": "slow"}, threads=(1,), clock=clock)
    order = [model for model, _, shape in ran if shape == (1, 256)]
    order = order[2 * latency_table.WARM_UP :]
    changes = int(np.sum(np.array(order[1:]) != np.array(order[:-1])))
    assert changes == len(order) // (latency_table.TURN + latency_table.TURN_WARM_UP) - 1 >= 3


def test_lengths_that_a_model_cannot_read_are_left_out(fakes):
    clock, _ = fakes
    found = measure_lengths({"a": "short", "b": "fast"}, threads=(1,), clock=clock)
    assert [f.tokens for f in found["a"]] == [f.tokens for f in found["b"]] == [16, 32, 64]


def test_where_one_is_slower():
    one = [LengthLatency(16, 1, 2.0, 3.0), LengthLatency(32, 1, 2.0, 3.0), LengthLatency(16, 2, 9.0, 9.0)]
    other = [LengthLatency(16, 1, 1.9, 9.0), LengthLatency(32, 1, 2.0, 1.0)]
    assert slower_cells(one, other) == one[:1]
