"""Batches that another thread makes ready, and metrics that are read from the device later."""

import itertools
import json
import threading

import pytest
import torch

from hrkd_cli.choices import Precision
from hrkd_cli.errors import TrainingError
from hrkd_cli.models.precision import PrecisionPolicy
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.loop import PREFETCH, LossOutput, Objective, StepOutput, prefetch
from hrkd_cli.training.metrics_log import MetricsLogger


def rows(count):
    return ({"a": [n]} for n in range(count))


@pytest.mark.parametrize("ahead", [False, True])
def test_batches_come_in_order(ahead):
    made = prefetch(rows(30), lambda chosen: chosen["a"][0] * 2, ahead=ahead)
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
    assert len(loaded) <= PREFETCH + 3


class Weighted(Objective):
    """The product of a weight and the sum of the batch's buckets."""

    def __init__(self, *, is_additive):
        self.is_additive = is_additive
        self.weight = torch.nn.Parameter(torch.tensor(3.0))
        self.collator = lambda rows: [rows["a"], rows["b"]]
        self.collator.context = TrainContext(PrecisionPolicy(Precision.FP32, torch.device("cpu")))
        self.modules, self.seen = [], []

    def loss(self, batch):
        self.seen.append(batch)
        total = self.weight * sum(map(sum, batch))
        return LossOutput(total, {"one": total / 4, "other": total * 3 / 4})


@pytest.mark.parametrize(("is_additive", "seen"), [(True, [[[1, 2]], [[5]]]), (False, [[[1, 2], [5]]])])
def test_an_additive_loss_is_backpropagated_bucket_by_bucket(is_additive, seen):
    objective = Weighted(is_additive=is_additive)
    loss = objective.backward([[1, 2], [5]], 0.5)
    assert (objective.seen, loss.total.item(), objective.weight.grad.item()) == (seen, 24, 4)
    assert loss.by_kind == {"one": 6, "other": 18}
    assert not loss.total.requires_grad


GRAPH = {"ratios": torch.tensor([[0.5, 0.5], [0.125, 0.875]]), "layer.1": torch.tensor([0.25, 0.75])}


def make_step(number=7, total=3.0, norm=0.5, graph=GRAPH, *, scaled=False):
    tensors = {"total": torch.tensor(total), "hidden": torch.tensor(1.0), "gradient_norm": torch.tensor(norm), **graph}
    return StepOutput(number, 0.1, 4, ("total", "hidden"), tensors, scaled)


def logged(tmp_path, *steps):
    events = []
    logger = MetricsLogger(
        file=tmp_path / "m",
        stage="teach",
        steps=9,
        steps_per_epoch=7,
        eval_every=3,
        on_event=events.append,
        eager=False,
    )
    logger.open()
    for step in steps:
        logger.add(step)
    logger.flush()
    return events, [json.loads(line) for line in (tmp_path / "m").read_text().splitlines()], logger


def test_a_steps_tensors_are_read(tmp_path):
    events, lines, logger = logged(tmp_path, make_step(), make_step(8, norm=0.25))
    assert events[0].epoch == 1.0
    assert events[0].losses == lines[0]["losses"] == {"total": 3.0, "hidden": 1.0}
    assert lines[0]["gradient_norm"] == 0.5
    assert events[0].layer_ratios == ((0.25, 0.75),)
    assert events[0].ratios == ((0.5, 0.5), (0.125, 0.875))
    assert [event.step for event in events] == [7, 8]
    assert [line["gradient_norm"] for line in lines] == [0.5, 0.25]
    assert logger.state_dict()["file_size"] == (tmp_path / "m").stat().st_size
    assert logger.examples == 8


def test_a_step_without_a_graph_has_no_ratios(tmp_path):
    (event,), (line,), _ = logged(tmp_path, make_step(graph={}))
    assert (event.ratios, event.layer_ratios) == ((), ())
    assert "ratios" not in line


def test_what_is_not_a_number_stops_the_run(tmp_path):
    nan, infinite = float("nan"), float("inf")
    with pytest.raises(TrainingError, match="step 7: the loss is nan"):
        logged(tmp_path, make_step(total=nan))
    with pytest.raises(TrainingError, match="step 7: the gradient is inf"):
        logged(tmp_path, make_step(norm=infinite))
    # A scaled gradient that overflowed: the step was skipped, and the scale comes down.
    logged(tmp_path, make_step(norm=infinite, scaled=True))
