"""Context that all parts of a training run share: device, precision, processes, events."""

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
    """Context of a training run.

    Attributes:
        precision: precision policy, with the device.
        processes: the processes of the run.
        on_event: receives events, in the main process only.
    """

    precision: PrecisionPolicy
    processes: ProcessGroup = SINGLE_PROCESS
    on_event: OnEvent = ignore

    @classmethod
    def start(cls, settings: TrainingSettings, on_event: OnEvent = ignore) -> TrainContext:
        """Choose device and precision, join the other processes of the run and set process-wide options.

        Raises:
            UsageError: the device, precision or number of processes is not available.
        """
        processes, device = join_process_group(settings.processes, pick_device(settings.device))
        precision = PrecisionPolicy(settings.precision, device)
        precision.configure_process()
        return cls(precision, processes, on_event if processes.is_main else ignore)

    @property
    def device(self) -> torch.device:
        """Device of models and batches."""
        return self.precision.device
