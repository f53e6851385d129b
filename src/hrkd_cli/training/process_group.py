"""Data parallelism over the processes that torchrun or ``--processes`` started, or over a single one.

Every process draws the same steps and takes its own part of each step's rows. Losses are weighted sums over rows, so
summing losses and gradients over processes gives the result of one process with the same batch, up to the order of
additions and to dropout.
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
    """The processes of a run: ``rank`` of this process, and their number ``size``."""

    rank: int = 0
    size: int = 1
    sync: bool = field(default=True, init=False)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and emits events."""
        return self.rank == 0

    def shard(self, items: Iterable[T]) -> list[T]:
        """Return this process's part of the items: every ``size``-th, starting at ``rank``."""
        return list(items)[self.rank :: self.size]

    def all_gather(self, value: T) -> list[T]:
        """Return the values of all processes by rank; tensors must be in host memory."""
        values = [value] * self.size
        if self.size > 1:
            with _as_process_error():
                dist.all_gather_object(values, value)
        return values

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process."""
        return any(self.all_gather(flag))

    def barrier(self) -> None:
        """Wait for all processes."""
        self.any(False)

    def main_first(self, make: Callable[[], T]) -> T:
        """Call ``make`` in the main process first, then in the others."""
        if self.is_main:
            made = make()
        self.barrier()
        return made if self.is_main else make()

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Return the sum over processes.

        All processes compute the same loss from it, so the gradient of the sum is that of each process's own part.
        """
        if self.size == 1 or not self.sync:
            return tensor
        summed = tensor.clone()
        with _as_process_error():
            dist.all_reduce(summed.detach())  # in place
        return summed

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """Make ``all_reduce`` return the process's own tensor, so that no process waits for another."""
        before, self.sync = self.sync, False
        try:
            yield
        finally:
            self.sync = before

    def all_reduce_grads(self, parameters: Sequence[Tensor]) -> None:
        """Replace every gradient with its sum over processes."""
        if self.size == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:  # unused in this process, but perhaps not in others
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = parameters_to_vector(gradients)
        with _as_process_error():
            dist.all_reduce(flat)
        vector_to_parameters(flat, gradients)


SINGLE_PROCESS = ProcessGroup()


def join_process_group(processes: int | None, device: torch.device) -> tuple[ProcessGroup, torch.device]:
    """Join the other processes of this run, if there are any; return the group and the device of this process.

    Raises:
        UsageError: the number of started processes is not ``processes``, or there are fewer GPUs.
    """
    started = int(os.environ.get("WORLD_SIZE", 1))
    if processes not in (None, started):
        found = f"{started} processes were started" if started > 1 else "only this process was started"
        raise UsageError(
            f"--processes {processes}: {found}; leave --processes out under torchrun, or use the hrkd command"
        )
    if started == 1:
        return SINGLE_PROCESS, device
    on_gpu = device.type == "cuda"
    if on_gpu:
        local_rank, gpus = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
        if local_rank >= gpus:
            raise UsageError(f"--processes: each process needs a GPU, and this machine has {gpus}; use --device cpu")
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        with _as_process_error():
            dist.init_process_group("nccl" if on_gpu else "gloo", timeout=TIMEOUT)
    group = ProcessGroup(dist.get_rank(), dist.get_world_size())
    group.barrier()
    return group, device


@contextlib.contextmanager
def _as_process_error() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # the base class of torch.distributed's errors
        raise ProcessError(
            "another process of this run stopped answering; see its own message, then continue with --resume"
        ) from error
