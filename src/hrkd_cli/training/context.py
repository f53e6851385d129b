"""Context that all parts of a training run share: device, precision, processes, events."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from hrkd_cli.choices import Precision
from hrkd_cli.events import OnEvent, ignore
from hrkd_cli.layout import partial_folder
from hrkd_cli.models.device import pick_device
from hrkd_cli.models.precision import PrecisionPolicy
from hrkd_cli.predict.backend import check_threads
from hrkd_cli.settings import TrainingSettings
from hrkd_cli.trackers import RunTracker, check_tracker
from hrkd_cli.training.checkpoint import saved_values
from hrkd_cli.training.process_group import SINGLE_PROCESS, ProcessGroup, join_process_group


@dataclass(frozen=True, slots=True)
class TrainContext:
    """Context of a training run.

    Attributes:
        precision: precision policy, with the device.
        processes: the processes of the run.
        on_event: receives events, in the main process only.
        threads: CPU threads of this process; None for torch's default.
    """

    precision: PrecisionPolicy
    processes: ProcessGroup = SINGLE_PROCESS
    on_event: OnEvent = ignore
    threads: int | None = None

    @classmethod
    def start(
        cls, settings: TrainingSettings, on_event: OnEvent = ignore, resume_from: Path | None = None
    ) -> TrainContext:
        """Choose device and precision, join the other processes of the run and set process-wide options.

        An interrupted run that left checkpoints for the output ``resume_from`` keeps the precision that ``auto`` chose.

        Raises:
            UsageError: the device, precision, tracker or number of processes or threads is not available.
        """
        check_threads(settings.threads)
        check_tracker(settings.log_to)
        processes, device = join_process_group(settings.processes, pick_device(settings.device))
        chosen = settings.precision
        if chosen is Precision.AUTO and resume_from is not None:
            checkpoints = saved_values(partial_folder(resume_from.resolve()))
            chosen = Precision(checkpoints[0]["options"]["precision"]) if checkpoints else chosen
        precision = PrecisionPolicy(chosen, device)
        precision.configure_process()
        if settings.log_to is not None:
            on_event = RunTracker(settings.log_to, on_event)
        return cls(precision, processes, on_event if processes.is_main else ignore, settings.threads)

    @property
    def device(self) -> torch.device:
        """Device of models and batches."""
        return self.precision.device
