"""One optimizer step, what it needs of an objective, and what it gives."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor, nn

from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.training.collator import Collator, StepRows
from hrkd_cli.training.optimizer import Optimizer

if TYPE_CHECKING:
    from torch.distributed.checkpoint.stateful import Stateful

T = TypeVar("T")

AHEAD = 4  # batches prepared while the GPU works


@dataclass(frozen=True, slots=True)
class LossOutput:
    """The loss of one batch of every domain.

    Attributes:
        total: scalar to be minimized.
        by_kind: its weighted terms by name; they add up to ``total``.
        ratios: (L+1, D) domain ratios; None where there are none.
        layer_ratios: for l = 1..L, (D, l+1).
    """

    total: Tensor
    by_kind: Mapping[str, Tensor] = field(default_factory=dict)
    ratios: Tensor | None = None
    layer_ratios: tuple[Tensor, ...] = ()


class Objective:
    """What is minimized: knows models and data, not the schedule.

    Attributes:
        modules: those that are trained: first the model whose weights are kept, then what is dropped afterwards.
        heads: outputs of that model.
        collator: makes batches; may run in another thread, ahead of time.
        held_back: numbers of train rows by domain that no step draws.
        parts: what a checkpoint needs beyond the modules, by name.
    """

    modules: list[nn.Module]
    heads: DomainHeads
    collator: Collator
    held_back: Mapping[str, Sequence[int]] = {}
    parts: Mapping[str, Stateful] = {}

    def loss(self, batch: Any) -> LossOutput:
        """Run the models on a batch."""
        raise NotImplementedError

    def on_step_start(self, number: int, batch: Any, optimizer: Optimizer) -> None:
        """Do what comes before a step; ``batch`` is its first."""

    def dry_run(self, rows: StepRows) -> None:
        """Run a forward and a backward pass that leave no gradients behind."""
        try:
            with self.collator.context.precision.autocast():
                loss = self.loss(self.collator(rows)).total
            loss.backward()  # type: ignore[no-untyped-call]
            float(loss.detach())  # waits for a GPU
        finally:
            for module in self.modules:
                module.zero_grad()


@dataclass(frozen=True, slots=True)
class StepOutput:
    """One finished optimizer step. Its tensors stay on the device until the metrics logger reads them.

    Attributes:
        number: 1-based.
        learning_rate: rate of this step.
        examples: rows of all domains and processes.
        losses: names of the losses: ``total`` and its terms.
        tensors: the losses, averaged over the step's batches; ``gradient_norm`` before clipping; of its last batch,
            where there is a graph, ``ratios`` (L+1, D) and for l = 1..L ``layer.l`` (l+1,), the mean over domains.
        scaled: whether gradients were scaled (fp16): a step whose gradients overflow is skipped.
    """

    number: int
    learning_rate: float
    examples: int
    losses: tuple[str, ...]
    tensors: dict[str, Tensor]
    scaled: bool


def train_step(
    objective: Objective,
    batches: Iterator[tuple[StepRows, Any]],
    optimizer: Optimizer,
    *,
    number: int,
    accumulate: int = 1,
) -> StepOutput:
    """Take step ``number`` on the mean loss of the next ``accumulate`` batches; does not wait for a GPU.

    ``batches`` are pairs of rows and what the objective made of them.
    """
    precision = objective.collator.context.precision
    losses: dict[str, Tensor] = {}
    examples = 0
    for part in range(accumulate):
        rows, batch = next(batches)
        if part == 0:
            objective.on_step_start(number, batch, optimizer)
        with precision.autocast():
            loss = objective.loss(batch)
        precision.backward(loss.total / accumulate)
        for kind, value in {"total": loss.total, **loss.by_kind}.items():
            share = value.detach().float() / accumulate
            losses[kind] = losses[kind] + share if kind in losses else share
        examples += sum(len(indices) for indices in rows.values())
    rate = optimizer.learning_rate
    tensors = {**losses, "gradient_norm": optimizer.step().detach().float()}
    if loss.ratios is not None:
        tensors["ratios"] = loss.ratios.detach().float()
    tensors |= {f"layer.{n}": r.detach().float().mean(dim=0) for n, r in enumerate(loss.layer_ratios, 1)}
    return StepOutput(number, rate, examples, tuple(losses), tensors, precision.scaler is not None)


def prefetch(
    rows: Iterator[StepRows], collate: Callable[[StepRows], T], *, ahead: bool
) -> Generator[tuple[StepRows, T], None, None]:
    """Pair the rows of an endless iterator with their batch; with ``ahead`` another thread collates meanwhile.

    Closing the generator ends the thread.
    """
    if not ahead:
        yield from ((chosen, collate(chosen)) for chosen in rows)
    waiting: deque[tuple[StepRows, Future[T]]] = deque()
    with ThreadPoolExecutor(1) as pool:
        try:
            for chosen in rows:
                waiting.append((chosen, pool.submit(collate, chosen)))
                if len(waiting) > AHEAD:
                    first, batch = waiting.popleft()
                    yield first, batch.result()
        finally:
            pool.shutdown(cancel_futures=True)
