"""The training loop: a generator of steps. Display, metrics, dev scoring and checkpoints are its consumers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from hrkd_cli.errors import TrainingError
from hrkd_cli.train.optimiser import Optimiser

Rows = Mapping[str, Sequence[int]]


@dataclass(frozen=True, slots=True)
class TaskLoss:
    """The loss of one batch of every domain.

    Attributes:
        total: scalar to be minimised.
        parts: what it consists of, by kind (weighted; they add up to ``total``).
        ratios: (L+1, D) domain ratios; None where there is no graph.
        layer_ratios: for l = 1..L, (D, l+1).
    """

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    ratios: Tensor | None = None
    layer_ratios: tuple[Tensor, ...] = ()


class Task(Protocol):
    """What is being trained: knows the models and the data, not the schedule."""

    def loss(self, rows: Rows) -> TaskLoss:
        """Run the given train rows of every domain."""
        ...


@dataclass(frozen=True, slots=True)
class Step:
    """One finished optimiser step.

    Attributes:
        number: 1-based.
        epoch: passes over the data so far.
        losses: ``total`` and its parts, averaged over the step's batches.
        learning_rate: rate of this step.
        examples: rows that went through, of all domains.
        ratios: domain ratios of the step's last batch, (L+1) lists of D.
        layer_ratios: mean over domains of the layer ratios of that batch.
    """

    number: int
    epoch: float
    losses: dict[str, float]
    learning_rate: float
    examples: int
    ratios: tuple[tuple[float, ...], ...]
    layer_ratios: tuple[tuple[float, ...], ...]


def train(
    task: Task, batches: Iterator[Rows], optimiser: Optimiser, *, steps: int, accumulate: int, steps_per_epoch: float
) -> Iterator[Step]:
    """Train for ``steps`` optimiser steps, yielding after each one.

    Args:
        task: computes the loss.
        batches: endless row indices by domain.
        optimiser: steps the weights.
        steps: how many.
        accumulate: batches that make one step; their losses are averaged.
        steps_per_epoch: optimiser steps an epoch, to say how far it is.

    Raises:
        TrainingError: the loss is not a number.
    """
    for number in range(1, steps + 1):
        sums: dict[str, float] = {}
        examples = 0
        for _ in range(accumulate):
            rows = next(batches)
            loss = task.loss(rows)
            (loss.total / accumulate).backward()  # type: ignore[no-untyped-call]
            for kind, value in {"total": loss.total, **loss.parts}.items():
                sums[kind] = sums.get(kind, 0.0) + float(value.detach()) / accumulate
            examples += sum(len(indices) for indices in rows.values())
        if sums["total"] != sums["total"] or abs(sums["total"]) == float("inf"):
            raise TrainingError(
                f"step {number}: the loss is {sums['total']}, not a number; lower --learning-rate or raise --warmup"
            )
        rate = optimiser.learning_rate
        optimiser.step()
        ratios = () if loss.ratios is None else tuple(tuple(row) for row in loss.ratios.detach().tolist())
        layers = tuple(tuple(r.detach().mean(dim=0).tolist()) for r in loss.layer_ratios)
        yield Step(number, number / steps_per_epoch, sums, rate, examples, ratios, layers)
