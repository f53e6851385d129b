"""The processes that share a run: a single one, or those that torchrun (or ``--processes``) started.

Every process draws the same steps, takes its own part of each step's rows and finds its part of every mean; sums over
the processes make the whole. So the result is that of one process with the same batch, up to the order of additions and
to dropout.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from hrkd_cli.errors import ProcessError, UsageError

T = TypeVar("T")

TIMEOUT = timedelta(minutes=60)  # one process may work alone for a while (dev scores, preparing data)


@dataclass(slots=True, eq=False)
class ProcessGroup:
    """The processes of a run: ``rank`` of this one, and how many there are."""

    rank: int = 0
    size: int = 1
    sync: bool = field(default=True, init=False)

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run's files and reports."""
        return self.rank == 0

    def shard(self, items: Iterable[T]) -> list[T]:
        """Return this process's part of a list: every ``size``-th item."""
        return list(items)[self.rank :: self.size]

    def all_gather(self, value: T) -> list[T]:
        """Return the values of all processes, by rank; tensors must be in host memory."""
        values = [value] * self.size
        if self.size > 1:
            with _plain_errors():
                dist.all_gather_object(values, value)
        return values

    def any(self, flag: bool) -> bool:
        """Tell whether the flag is set in any process."""
        return any(self.all_gather(flag))

    def barrier(self) -> None:
        """Wait for all processes."""
        self.any(False)

    def main_first(self, make: Callable[[], T]) -> T:
        """Call something in the main process while the others wait, then in each of them."""
        if self.is_main:
            made = make()
        self.barrier()
        return made if self.is_main else make()

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Return the sum over processes.

        Each process then computes the same loss from it, so its own part's gradient is that of the sum.
        """
        if self.size == 1 or not self.sync:
            return tensor
        summed = tensor.clone()
        with _plain_errors():
            dist.all_reduce(summed.detach())  # in place
        return summed

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """Let ``all_reduce`` return each process's own part: none waits for one that runs out of memory."""
        self.sync = False
        try:
            yield
        finally:
            self.sync = True

    def all_reduce_grads(self, parameters: Sequence[Tensor]) -> None:
        """Replace every gradient by its sum over processes."""
        if self.size == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:  # unused here, but perhaps not in other processes
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = parameters_to_vector(gradients)
        with _plain_errors():
            dist.all_reduce(flat)
        vector_to_parameters(flat, gradients)


SINGLE_PROCESS = ProcessGroup()


def join_process_group(processes: int | None, device: torch.device) -> tuple[ProcessGroup, torch.device]:
    """Join the other processes of this run, if it was started as one of several; return the device of this one, too.

    Raises:
        UsageError: another number was asked for (``processes``) than was started, or there are fewer GPUs.
    """
    started = int(os.environ.get("WORLD_SIZE", 1))
    if processes not in (None, started):
        met = f"{started} processes" if started > 1 else "this process alone"
        raise UsageError(
            f"--processes {processes}: {met} met; leave --processes out under torchrun, or start with the hrkd command"
        )
    if started == 1:
        return SINGLE_PROCESS, device
    on_gpu = device.type == "cuda"
    if on_gpu:
        local, there = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
        if local >= there:
            raise UsageError(f"--processes: a GPU each is needed, and this machine has {there}; use --device cpu")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        with _plain_errors():
            dist.init_process_group("nccl" if on_gpu else "gloo", timeout=TIMEOUT)
    group = ProcessGroup(dist.get_rank(), dist.get_world_size())
    group.barrier()
    return group, device


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch.distributed's errors are of this type, or derive from it
        raise ProcessError(
            "another process of this run stopped answering; its own message says why; go on with --resume"
        ) from error
