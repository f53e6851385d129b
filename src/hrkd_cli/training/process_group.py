"""The processes that share a run: one of its own, or those that torchrun (or ``--processes``) started.

Every process draws the same steps, takes its own part of each step's rows and finds its part of every mean (see
``hrkd_cli.method.packed``); sums over the processes make the whole. So the result is that of one process with the same
batch, whatever their number, up to the order of additions and to dropout.
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

BUCKET = 25 << 20  # bytes of gradients that go over the wire together
PATIENCE = timedelta(minutes=60)  # one process may work alone for a while (dev scores, preparing data)


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """The processes of a run.

    Attributes:
        rank: number of this one; 0 is the one that writes and speaks.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run's files and reports."""
        return self.rank == 0

    def shard(self, items: Iterable[T]) -> list[T]:
        """Return this process's part of a list: every ``size``-th item."""
        return list(items)[self.rank :: self.size]

    def barrier(self) -> None:
        """Wait for all."""
        if self.size > 1:
            with _together():
                dist.all_reduce(torch.zeros(1, device=_wire()))

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Return the sum over processes; gradients flow back to each process's own part."""
        if self.size == 1 or _no_sync:
            return tensor
        summed: Tensor = _Sum.apply(tensor)  # type: ignore[no-untyped-call]
        return summed

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """Leave ``all_reduce`` out: each process keeps its own part, and none waits for one that runs out of memory."""
        _no_sync.append(True)
        try:
            yield
        finally:
            _no_sync.pop()

    def any(self, flag: bool) -> bool:
        """Tell whether any process says so."""
        if self.size == 1:
            return flag
        votes = torch.tensor([float(flag)], device=_wire())
        with _together():
            dist.all_reduce(votes)
        return bool(votes.item())

    def all_reduce_grads(self, parameters: Iterable[Tensor]) -> None:
        """Replace every gradient by its sum over processes."""
        if self.size == 1:
            return
        pending, bucket, size = [], [], 0
        with _together():
            for parameter in parameters:
                if parameter.grad is None:  # it took no part here, but may have elsewhere
                    parameter.grad = torch.zeros_like(parameter)
                bucket.append(parameter.grad)
                size += parameter.grad.numel() * parameter.grad.element_size()
                if size >= BUCKET:
                    pending.append(_send(bucket))
                    bucket, size = [], 0
            pending.append(_send(bucket))
            for work, flat, gradients in pending:
                work.wait()
                offset = 0
                for gradient in gradients:
                    gradient.copy_(flat[offset : offset + gradient.numel()].view_as(gradient))
                    offset += gradient.numel()

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        """Return the equally shaped tensors of all processes, in their order."""
        if self.size == 1:
            return [tensor]
        sent = tensor.to(_wire())
        parts = [torch.empty_like(sent) for _ in range(self.size)]
        with _together():
            dist.all_gather(parts, sent)
        return [part.to(tensor.device) for part in parts]

    def main_first(self, make: Callable[[], T]) -> T:
        """Run something in the main process while the others wait, then in each of them."""
        if self.is_main:
            made = make()
            self.barrier()
            return made
        self.barrier()
        return make()


SINGLE_PROCESS = ProcessGroup()
_no_sync: list[bool] = []  # not empty inside ProcessGroup.no_sync


def join_process_group(processes: int | None, device: torch.device) -> ProcessGroup:
    """Meet the other processes of this run, if it was started as one of several.

    Args:
        processes: how many the user asked for; None for as many as there are.
        device: where tensors live: NCCL on CUDA, gloo elsewhere.

    Raises:
        UsageError: the number that was asked for and the number that met differ.
    """
    promised = int(os.environ.get("WORLD_SIZE", 1))
    if promised == 1 and processes in (None, 1):
        return SINGLE_PROCESS
    if processes is not None and processes != promised:
        met = f"{promised} processes" if promised > 1 else "this process alone"
        raise UsageError(
            f"--processes {processes}: {met} met; leave --processes out under torchrun, or start with the hrkd command"
        )
    if not dist.is_initialized():
        with _together():
            if device.type == "cuda":
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    group = ProcessGroup(dist.get_rank(), dist.get_world_size())
    counted = torch.ones(1, device=_wire())
    with _together():
        dist.all_reduce(counted)
    if group.size != promised or int(counted.item()) != promised:
        raise UsageError(f"--processes: {promised} processes were asked for, and {int(counted.item())} met")
    return group


def local_device(device: torch.device) -> torch.device:
    """Return the GPU of this process: the one with its number on this machine."""
    if device.type == "cuda" and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        local, there = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
        if local >= there:
            raise UsageError(f"--processes: a GPU each is needed, and this machine has {there}; use --device cpu")
        return torch.device("cuda", local)
    return device


class _Sum(torch.autograd.Function):
    """Sum over processes. Each then computes the same loss from it, so its own part's gradient is that of the sum."""

    @staticmethod
    def forward(_ctx: Any, tensor: Tensor) -> Tensor:
        summed = tensor.detach().clone()
        with _together():
            dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def _send(gradients: list[Tensor]) -> tuple[Any, Tensor, list[Tensor]]:
    flat = torch.cat([g.reshape(-1) for g in gradients]) if gradients else torch.zeros(1, device=_wire())
    return dist.all_reduce(flat, async_op=True), flat, gradients


def _wire() -> torch.device:
    """Where tensors must live to be sent."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


@contextlib.contextmanager
def _together() -> Iterator[None]:
    """Say plainly that another process of the run is gone."""
    try:
        yield
    except RuntimeError as error:  # torch.distributed's errors are of this type, or derive from it
        raise ProcessError(
            "another process of this run stopped answering; its own message says why; go on with --resume"
        ) from error
