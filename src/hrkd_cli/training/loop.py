"""The training loop: a generator of steps. Display, metrics, dev scoring and checkpoints are its consumers."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from hrkd_cli.errors import TrainingError
from hrkd_cli.models.precision import Arithmetic
from hrkd_cli.training.optimizer import Optimizer

Rows = Mapping[str, Sequence[int]]
T = TypeVar("T")

AHEAD = 4  # batches that are made ready while the GPU works


@dataclass(frozen=True, slots=True)
class LossOutput:
    """The loss of one batch of every domain.

    Attributes:
        total: scalar to be minimised.
        by_kind: what it consists of, by kind (weighted; they add up to ``total``).
        ratios: (L+1, D) domain ratios; None where there is no graph.
        layer_ratios: for l = 1..L, (D, l+1).
    """

    total: Tensor
    by_kind: Mapping[str, Tensor] = field(default_factory=dict)
    ratios: Tensor | None = None
    layer_ratios: tuple[Tensor, ...] = ()


class Objective(Protocol):
    """What is being trained: knows the models and the data, not the schedule."""

    def collate(self, rows: Rows) -> Any:
        """Get the given train rows of every domain ready; may run in another thread, ahead of time."""
        ...

    def loss(self, batch: Any) -> LossOutput:
        """Run what ``collate`` made ready."""
        ...

    def on_step_start(self, number: int, steps: int, batch: Any, optimizer: Optimizer) -> None:
        """Do what comes before step ``number`` of ``steps``; ``batch`` is its first."""
        ...

    def rehearse(self, batch: Any) -> None:
        """Take the memory that ``on_step_start`` takes for such a batch; nothing is changed."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Return what a checkpoint needs beyond the trained modules."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from ``state_dict()``."""
        ...


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """A step's numbers, read from the device.

    Attributes:
        losses: ``total`` and its parts, averaged over the step's batches.
        gradient_norm: before clipping.
        ratios: domain ratios of the step's last batch, (L+1) lists of D.
        layer_ratios: mean over domains of the layer ratios of that batch.
    """

    losses: dict[str, float]
    gradient_norm: float
    ratios: tuple[tuple[float, ...], ...]
    layer_ratios: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class StepOutput:
    """One finished optimizer step. Its numbers stay on the device until someone reads them.

    Attributes:
        number: 1-based.
        epoch: passes over the data so far.
        learning_rate: rate of this step.
        examples: rows that went through, of all domains and processes.
        values: everything that ``StepMetrics`` holds, in one vector.
        kinds: names of the losses in it.
        nodes: D of the domain ratios; 0 where there are none.
        layers: sizes of the layer ratios.
        scaled: whether gradients were scaled (fp16): such a step is left out when they overflow.
    """

    number: int
    epoch: float
    learning_rate: float
    examples: int
    values: Tensor
    kinds: tuple[str, ...]
    nodes: int
    layers: tuple[int, ...]
    scaled: bool

    def read(self, values: Sequence[float]) -> StepMetrics:
        """Take the numbers of ``values`` apart.

        Raises:
            TrainingError: the loss, or the gradient, is not a number.
        """
        losses = dict(zip(self.kinds, values, strict=False))
        position = len(self.kinds) + 1
        layers = []
        for size in self.layers:
            layers.append(tuple(values[position : position + size]))
            position += size
        rest = values[position:]
        ratios = tuple(tuple(rest[n : n + self.nodes]) for n in range(0, len(rest), self.nodes)) if self.nodes else ()
        norm = values[len(self.kinds)]
        for what, value in (("loss", losses["total"]), ("gradient", norm)):
            if not math.isfinite(value) and (what == "loss" or not self.scaled):
                raise TrainingError(
                    f"step {self.number}: the {what} is {value}, not a number; lower --learning-rate or raise --warmup"
                )
        return StepMetrics(losses, norm, ratios, tuple(layers))


def train(
    objective: Objective,
    batches: Iterator[tuple[Rows, Any]],
    optimizer: Optimizer,
    arithmetic: Arithmetic,
    *,
    first: int,
    steps: int,
    accumulate: int,
    steps_per_epoch: float,
) -> Iterator[StepOutput]:
    """Train to step ``steps``, yielding after each one. Nothing here waits for a GPU.

    Args:
        objective: computes the loss.
        batches: endless rows by domain with what the objective made of them, from those of step ``first`` on.
        optimizer: steps the weights.
        arithmetic: precision of the forward pass.
        first: 1-based number of the first step.
        steps: number of the last.
        accumulate: batches that make one step; their losses are averaged.
        steps_per_epoch: optimizer steps an epoch, to say how far it is.
    """
    for number in range(first, steps + 1):
        sums: Tensor | None = None
        examples = 0
        for part in range(accumulate):
            rows, batch = next(batches)
            if part == 0:
                objective.on_step_start(number, steps, batch, optimizer)
            with arithmetic.forward():
                loss = objective.loss(batch)
            arithmetic.backward(loss.total / accumulate)
            parts = {"total": loss.total, **loss.by_kind}
            values = torch.stack([value.detach().float() for value in parts.values()]) / accumulate
            sums = values if sums is None else sums + values
            examples += sum(len(indices) for indices in rows.values())
        rate = optimizer.learning_rate
        norm = optimizer.step()
        assert sums is not None
        found = [sums, norm.detach().float().reshape(1).to(sums.device)]
        found += [r.detach().float().mean(dim=0) for r in loss.layer_ratios]
        nodes = 0
        if loss.ratios is not None:
            found.append(loss.ratios.detach().float().flatten())
            nodes = loss.ratios.shape[1]
        layers = tuple(r.shape[1] for r in loss.layer_ratios)
        scaled = arithmetic.scaler is not None
        yield StepOutput(
            number, number / steps_per_epoch, rate, examples, torch.cat(found), tuple(parts), nodes, layers, scaled
        )


def prefetch(rows: Iterator[Rows], collate: Callable[[Rows], T], *, ahead: bool) -> Iterator[tuple[Rows, T]]:
    """Pair rows with what ``collate`` makes of them; with ``ahead`` another thread does that while the device works.

    Closing the iterator ends the thread.
    """
    if not ahead:
        yield from ((chosen, collate(chosen)) for chosen in rows)
        return
    ready: queue.Queue[Any] = queue.Queue(AHEAD)
    closed = threading.Event()

    def put(item: Any) -> bool:
        while not closed.is_set():
            try:
                ready.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for chosen in rows:
                if not put((chosen, collate(chosen))):
                    return
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        closed.set()
        thread.join()
