"""What every part of a training run shares: device, precision, processes, events."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hrkd_cli.events import OnEvent, ignore
from hrkd_cli.models.device import pick_device
from hrkd_cli.models.precision import PrecisionPolicy
from hrkd_cli.settings import TrainingSettings
from hrkd_cli.training.process_group import SINGLE_PROCESS, ProcessGroup, join_process_group


@dataclass(frozen=True, slots=True)
class TrainContext:
    """The surroundings of a training run: precision and device, processes, and what receives the main one's events."""

    precision: PrecisionPolicy
    processes: ProcessGroup = SINGLE_PROCESS
    on_event: OnEvent = ignore

    @classmethod
    def start(cls, settings: TrainingSettings, on_event: OnEvent = ignore) -> TrainContext:
        """RowRef device and precision, and join the other processes of the run.

        Raises:
            UsageError: there is no such device or precision, or other processes than were asked for.
        """
        processes, device = join_process_group(settings.processes, pick_device(settings.device))
        precision = PrecisionPolicy(settings.precision, device)
        precision.configure_process()
        return cls(precision, processes, on_event if processes.is_main else ignore)

    @property
    def device(self) -> torch.device:
        """Where tensors live."""
        return self.precision.device
