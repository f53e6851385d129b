"""Batches that another thread makes ready, and numbers that stay on the device until they are read."""

import itertools
import threading

import pytest
import torch

from hrkd_cli.errors import TrainingError
from hrkd_cli.training.loop import AHEAD, StepOutput, prefetch


def rows(count):
    return ({"a": [n]} for n in range(count))


@pytest.mark.parametrize("ahead", [False, True])
def test_batches_come_in_order(ahead):
    made = prefetch(rows(20), lambda chosen: chosen["a"][0] * 2, ahead=ahead)
    assert [(chosen["a"][0], batch) for chosen, batch in itertools.islice(made, 20)] == [(n, 2 * n) for n in range(20)]
    made.close()


def test_an_error_reaches_the_reader():
    def load(chosen):
        if chosen["a"] == [2]:
            raise ValueError("row 2")
        return chosen

    made = prefetch(rows(9), load, ahead=True)
    next(made), next(made)
    with pytest.raises(ValueError, match="row 2"):
        next(made)


def test_closing_ends_the_thread_and_little_is_made_in_advance():
    loaded = []
    before = threading.active_count()
    made = prefetch(({"a": [n]} for n in itertools.count()), loaded.append, ahead=True)
    next(made)
    made.close()
    assert threading.active_count() == before
    assert len(loaded) <= AHEAD + 3


def make_step(values, **changes):
    parts = {
        "number": 7, "epoch": 1.0, "learning_rate": 0.1, "examples": 4, "values": torch.tensor(values),
        "kinds": ("total", "hidden"), "nodes": 2, "layers": (2,), "scaled": False,
    }  # fmt: skip
    return StepOutput(**{**parts, **changes})


def test_a_steps_numbers_are_taken_apart():
    values = [3.0, 1.0, 0.5, 0.25, 0.75, 0.5, 0.5, 0.125, 0.875]
    found = make_step(values).read(values)
    assert found.losses == {"total": 3.0, "hidden": 1.0}
    assert found.gradient_norm == 0.5
    assert found.layer_ratios == ((0.25, 0.75),)
    assert found.ratios == ((0.5, 0.5), (0.125, 0.875))


def test_what_is_not_a_number_stops_the_run():
    nan = float("nan")
    with pytest.raises(TrainingError, match="step 7: the loss is nan"):
        make_step([]).read([nan, 1.0, 0.5, 0.5, 0.5])
    with pytest.raises(TrainingError, match="step 7: the gradient is inf"):
        make_step([]).read([1.0, 1.0, float("inf"), 0.5, 0.5])
    # A scaled gradient that overflowed: the step was left out, and the scale comes down.
    make_step([], scaled=True).read([1.0, 1.0, float("inf"), 0.5, 0.5])
