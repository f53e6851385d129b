"""The training loop: objectives, one optimizer step, prefetching of batches."""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor, nn

from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.training.collator import Collator, StepRows
from hrkd_cli.training.optimizer import Optimizer

if TYPE_CHECKING:
    from torch.distributed.checkpoint.stateful import Stateful

T = TypeVar("T")

PREFETCH = 4  # batches prepared while the GPU works


@dataclass(frozen=True, slots=True)
class LossOutput:
    """The loss of one batch of every domain.

    Attributes:
        total: scalar to minimize.
        by_kind: weighted terms by name; they add up to ``total``.
        ratios: (L+1, D) domain ratios; None without a graph.
        layer_ratios: layer ratios of l = 1..L, (D, l+1) each.
    """

    total: Tensor
    by_kind: Mapping[str, Tensor] = field(default_factory=dict)
    ratios: Tensor | None = None
    layer_ratios: tuple[Tensor, ...] = ()

    def map(self, function: Callable[[Tensor], Tensor]) -> LossOutput:
        """Return this output with ``function`` applied to the total and its terms."""
        by_kind = {kind: function(loss) for kind, loss in self.by_kind.items()}
        return replace(self, total=function(self.total), by_kind=by_kind)

    def __add__(self, other: LossOutput) -> LossOutput:
        """Add the loss of other rows of the same batch."""
        by_kind = {kind: loss + other.by_kind[kind] for kind, loss in self.by_kind.items()}
        return replace(self, total=self.total + other.total, by_kind=by_kind)


class Objective:
    """A loss with its models and data, independent of the schedule.

    Attributes:
        modules: trained modules: first the model that is saved, then those that are dropped after training.
        heads: domain heads of that model.
        collator: makes batches, possibly in another thread.
        held_back: indices of train rows by domain that are never sampled.
        is_additive: whether the loss of a batch is the sum of the losses of its length buckets.
        domain_posterior: whether the softmax over all outputs is trained to be p(domain, label | text).
        parts: objects that a checkpoint saves besides the modules, by name (see ``hrkd_cli.training.checkpoint``).
    """

    modules: list[nn.Module]
    heads: DomainHeads
    collator: Collator
    held_back: Mapping[str, Sequence[int]] = {}
    is_additive = False
    domain_posterior = False
    parts: Mapping[str, Stateful] = {}

    def loss(self, batch: Any) -> LossOutput:
        """Return the loss of a batch."""
        raise NotImplementedError

    def backward(self, batch: Any, fraction: float = 1.0) -> LossOutput:
        """Backpropagate a fraction of the loss of a batch; return the loss, detached.

        An additive loss is backpropagated bucket by bucket, so that only one bucket's activations are in memory.
        """
        precision, processes = self.collator.context.precision, self.collator.context.processes

        def backward(part: Any) -> LossOutput:
            with precision.autocast():
                loss = self.loss(part)
            precision.backward(loss.total * fraction)
            return loss.map(lambda tensor: tensor.detach().float())

        if not self.is_additive:
            return backward(batch)
        with processes.no_sync():  # processes may have different numbers of buckets
            loss = reduce(operator.add, [backward([bucket]) for bucket in batch])
        return loss.map(processes.all_reduce)

    def on_step_start(self, step: int) -> None:
        """Prepare a step."""

    def before_scoring(self) -> None:
        """Make the first module ready for a dev score."""

    def before_update(self, step: int, batch: Any, optimizer: Optimizer, norm: Tensor) -> None:
        """Use a step's gradients, clipped from ``norm``, before they change the modules; ``batch`` is its first."""

    def dry_run(self, rows: StepRows) -> None:
        """Run a forward and backward pass without keeping gradients."""
        try:
            float(self.backward(self.collator(rows)).total)  # waits for a GPU
        finally:
            for module in self.modules:
                module.zero_grad()


@dataclass(frozen=True, slots=True)
class StepOutput:
    """Metrics of one optimizer step; tensors stay on the device until the metrics logger reads them.

    Attributes:
        number: number of the step, from 1.
        examples: rows of all domains and processes.
        losses: names of the losses, ``total`` and its terms.
        tensors: losses, averaged over the step's batches; ``gradient_norm`` before clipping; with a graph, of the last
            batch, ``ratios`` (L+1, D) and for l = 1..L ``layer.l`` (l+1,), the mean over domains.
        scaled: whether gradients were scaled (fp16), so that a step with an overflow is skipped.
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
    """Take step ``number`` on the mean loss of the next ``accumulate`` batches, without waiting for a GPU.

    ``batches`` yields pairs of row indices and batches, see ``prefetch``.
    """
    losses: dict[str, Tensor] = {}
    examples = 0
    objective.on_step_start(number)
    first: Any = None
    for _ in range(accumulate):
        rows, batch = next(batches)
        first = batch if first is None else first
        loss = objective.backward(batch, 1 / accumulate)
        for kind, value in {"total": loss.total, **loss.by_kind}.items():
            mean = value / accumulate
            losses[kind] = losses[kind] + mean if kind in losses else mean
        examples += sum(len(indices) for indices in rows.values())
    learning_rate = optimizer.learning_rate
    norm = optimizer.step(lambda norm: objective.before_update(number, first, optimizer, norm))
    tensors = {**losses, "gradient_norm": norm.detach().float()}
    if loss.ratios is not None:
        tensors["ratios"] = loss.ratios.detach().float()
    tensors |= {f"layer.{n}": r.detach().float().mean(dim=0) for n, r in enumerate(loss.layer_ratios, 1)}
    return StepOutput(number, learning_rate, examples, tuple(losses), tensors, optimizer.scaler is not None)


def prefetch(
    steps: Iterator[StepRows], collate: Callable[[StepRows], T], *, ahead: bool
) -> Generator[tuple[StepRows, T], None, None]:
    """Yield row indices with their batch; with ``ahead``, a thread collates the next batches in the background.

    ``steps`` must be endless. Closing the generator ends the thread.
    """
    if not ahead:
        yield from ((rows, collate(rows)) for rows in steps)
    pending: deque[tuple[StepRows, Future[T]]] = deque()
    with ThreadPoolExecutor(1) as pool:
        try:
            for rows in steps:
                pending.append((rows, pool.submit(collate, rows)))
                if len(pending) > PREFETCH:
                    next_rows, batch = pending.popleft()
                    yield next_rows, batch.result()
        finally:
            pool.shutdown(cancel_futures=True)
