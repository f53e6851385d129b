"""What every part of a training run shares: device, precision, processes, events."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch

from hrkd_cli.events import OnEvent, ignore
from hrkd_cli.models.backend import pick_device
from hrkd_cli.models.precision import Arithmetic
from hrkd_cli.settings import TrainingSettings
from hrkd_cli.training.process_group import SINGLE_PROCESS, ProcessGroup, join_process_group, local_device


@dataclass(frozen=True, slots=True)
class TrainContext:
    """The surroundings of a training run.

    Attributes:
        precision: precision of forward and backward passes.
        processes: the processes that share the run.
        on_event: receives events; in all but the main process it drops them.
    """

    precision: Arithmetic
    processes: ProcessGroup = SINGLE_PROCESS
    on_event: OnEvent = ignore

    @classmethod
    def start(cls, settings: TrainingSettings, on_event: OnEvent = ignore) -> TrainContext:
        """Pick device and precision, and join the other processes of the run.

        Raises:
            UsageError: there is no such device or precision, or other processes than were asked for.
        """
        device = local_device(pick_device(settings.device))
        precision = Arithmetic(settings.precision, device)
        precision.prepare()
        processes = join_process_group(settings.processes, device)
        return cls(precision, processes, on_event if processes.is_main else ignore)

    @property
    def device(self) -> torch.device:
        """Where tensors live."""
        return self.precision.device


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's and torch's global generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
