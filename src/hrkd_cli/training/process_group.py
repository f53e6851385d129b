"""The processes that share a run: a single one, or those that torchrun (or ``--processes``) started.

Every process draws the same steps, takes its own part of each step's rows and finds its part of every mean; sums over
the processes make the whole. So the result is that of one process with the same batch, up to the order of additions and
to dropout.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from hrkd_cli.errors import ProcessError, UsageError

T = TypeVar("T")

BUCKET = 25 << 20  # bytes of gradients that are sent together
TIMEOUT = timedelta(minutes=60)  # one process may work alone for a while (dev scores, preparing data)


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """The processes of a run: ``rank`` of this one, and how many there are."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run's files and reports."""
        return self.rank == 0

    def shard(self, items: Iterable[T]) -> list[T]:
        """Return this process's part of a list: every ``size``-th item."""
        return list(items)[self.rank :: self.size]

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        """Return the equally shaped tensors of all processes, by rank."""
        if self.size == 1:
            return [tensor]
        sent = tensor.to(_wire())
        parts = [torch.empty_like(sent) for _ in range(self.size)]
        with _plain_errors():
            dist.all_gather(parts, sent)
        return [part.to(tensor.device) for part in parts]

    def any(self, flag: bool) -> bool:
        """Tell whether the flag is set in any process."""
        return any(bool(vote) for vote in self.all_gather(torch.tensor([float(flag)])))

    def barrier(self) -> None:
        """Wait for all processes."""
        self.any(False)

    def main_first(self, make: Callable[[], T]) -> T:
        """Call something in the main process while the others wait, then in each of them."""
        if not self.is_main:
            self.barrier()
            return make()
        made = make()
        self.barrier()
        return made

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Return the sum over processes; gradients flow back to each process's own part."""
        if self.size == 1 or _no_sync:
            return tensor
        summed: Tensor = _AllReduce.apply(tensor)  # type: ignore[no-untyped-call]
        return summed

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """Let ``all_reduce`` return each process's own part: none waits for one that runs out of memory."""
        _no_sync.append(True)
        try:
            yield
        finally:
            _no_sync.pop()

    def all_reduce_grads(self, parameters: Iterable[Tensor]) -> None:
        """Replace every gradient by its sum over processes."""
        if self.size == 1:
            return
        bucket: list[Tensor] = []
        with _plain_errors():
            for parameter in parameters:
                if parameter.grad is None:  # unused here, but perhaps not in other processes
                    parameter.grad = torch.zeros_like(parameter)
                bucket.append(parameter.grad)
                if sum(g.numel() * g.element_size() for g in bucket) >= BUCKET:
                    _sum_in_place(bucket)
                    bucket = []
            _sum_in_place(bucket)


SINGLE_PROCESS = ProcessGroup()
_no_sync: list[bool] = []  # not empty inside ProcessGroup.no_sync


def join_process_group(processes: int | None, device: torch.device) -> ProcessGroup:
    """Join the other processes of this run, if it was started as one of several.

    Args:
        processes: how many the user asked for; None for as many as there are.
        device: where tensors live: NCCL on CUDA, gloo elsewhere.

    Raises:
        UsageError: the number that was asked for is not the number that was started.
    """
    started = int(os.environ.get("WORLD_SIZE", 1))
    if started == 1 and processes in (None, 1):
        return SINGLE_PROCESS
    if processes not in (None, started):
        met = f"{started} processes" if started > 1 else "this process alone"
        raise UsageError(
            f"--processes {processes}: {met} met; leave --processes out under torchrun, or start with the hrkd command"
        )
    if not dist.is_initialized():
        with _plain_errors():
            if device.type == "cuda":
                torch.cuda.set_device(device)
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    group = ProcessGroup(dist.get_rank(), dist.get_world_size())
    group.barrier()
    return group


def local_device(device: torch.device) -> torch.device:
    """Return the GPU of this process: the one with its number on this machine."""
    if device.type == "cuda" and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        local, there = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
        if local >= there:
            raise UsageError(f"--processes: a GPU each is needed, and this machine has {there}; use --device cpu")
        return torch.device("cuda", local)
    return device


class _AllReduce(torch.autograd.Function):
    """Sum over processes. Each then computes the same loss from it, so its own part's gradient is that of the sum."""

    @staticmethod
    def forward(_ctx: Any, tensor: Tensor) -> Tensor:
        summed = tensor.detach().clone()
        with _plain_errors():
            dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def _sum_in_place(gradients: list[Tensor]) -> None:
    if not gradients:
        return
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat)
    for gradient, summed in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(summed.view_as(gradient))


def _wire() -> torch.device:
    """Return the device of tensors that are sent."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """Turn a lost connection into one plain line."""
    try:
        yield
    except RuntimeError as error:  # torch.distributed's errors are of this type, or derive from it
        raise ProcessError(
            "another process of this run stopped answering; its own message says why; go on with --resume"
        ) from error
