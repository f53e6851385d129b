"""Before a run: checks of a command's inputs, and ``hrkd distill --dry-run``.

The checks need neither torch nor transformers, which take seconds to import, so that a mistyped name is reported at
once. The functions behind the commands make the same checks. A dry run is the run itself, which stops before its first
step.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import hrkd_cli
from hrkd_cli.choices import CacheTeacher
from hrkd_cli.cli.tables import Table, key_value_table
from hrkd_cli.command_settings import EvalSettings, ExportSettings
from hrkd_cli.data.dataset_folder import is_prepared
from hrkd_cli.data.sources.discover import check_source
from hrkd_cli.errors import UsageError
from hrkd_cli.events import Event, OnEvent, StageStarted
from hrkd_cli.formatting import byte_size, duration, join_names, thousands
from hrkd_cli.json_files import read_json
from hrkd_cli.layout import ModelFiles, student_folder
from hrkd_cli.models.model_source import (
    check_classifier,
    check_student,
    resolve_extended,
    resolve_model,
    resolve_teacher,
    student_spec_is_path,
)
from hrkd_cli.outputs import check_no_overlap, check_stage_output
from hrkd_cli.settings import DistillArguments, TeachArguments
from hrkd_cli.trackers import check_tracker

_ADAM_BYTES = 8  # of the two moments of a weight, which the first step adds


def check_teach(options: TeachArguments) -> None:
    """Raise HrkdError if the output exists, or the model, the data or the tracker does not."""
    check_tracker(options.log_to)
    check_stage_output(options.out, "teach", force=options.force, resume=options.resume)
    resolve_model(options.model)
    check_source(options.data)


def check_distill(options: DistillArguments) -> None:
    """Raise HrkdError if the output exists, or the teacher, the student, the data or the tracker does not."""
    check_tracker(options.log_to)
    out = student_folder(options.out, options.extend)
    if options.extend is None:
        check_stage_output(out, "distill", force=options.force, resume=options.resume)
        resolve_teacher(options.teacher)
    else:
        check_no_overlap(out, {"student to extend": resolve_extended(options.extend, options.teacher)})
        check_stage_output(out, "distill", force=options.force, resume=options.resume)
    if student_spec_is_path(options.student):
        resolve_model(str(options.student), "student")
    for source in filter(None, (options.data, options.unlabelled)):
        check_source(source)


def check_export(options: ExportSettings) -> None:
    """Raise HrkdError if the student or the data does not exist."""
    check_student(options.student)
    if options.data is not None:
        check_source(options.data)


def check_eval(options: EvalSettings) -> None:
    """Raise HrkdError if a model or the data does not exist."""
    for model in (*(options.models or ()), *filter(None, [options.fallback])):
        check_classifier(model)
    if options.data is not None:
        check_source(options.data)


class _Started(BaseException):
    """The run is about to take its first step."""

    def __init__(self, event: StageStarted) -> None:
        super().__init__()
        self.event = event


def plan_distill(options: DistillArguments, on_event: OnEvent) -> dict[str, Any]:
    """Return the plan of a run. It works in a temporary folder, and times steps that run the teacher.

    Raises:
        UsageError: the run would prepare data or fine-tune a teacher first.
    """
    from hrkd_cli.models.loading import is_classifier

    if not is_prepared(Path(options.data)):
        raise UsageError(f"--dry-run: {options.data} is not prepared yet; run hrkd prepare first")
    if options.extend is None and not is_classifier(read_json(resolve_teacher(options.teacher) / ModelFiles.config)):
        raise UsageError(f"--dry-run: {options.teacher} is not fine-tuned yet; run hrkd teach first")

    def stop(event: Event) -> None:
        if isinstance(event, StageStarted):
            raise _Started(event)
        on_event(event)

    with tempfile.TemporaryDirectory() as folder:
        changed: dict[str, Any] = {"cache_teacher": CacheTeacher.OFF, "processes": None, "log_to": None}
        changed |= {"force": False, "resume": False}
        values = {**vars(options), **changed, "out": Path(folder) / "student"}
        del values["dry_run"]
        try:
            hrkd_cli.distill(**values, on_event=stop)
        except _Started as started:
            event = started.event
    names = ("steps", "epochs", "domains", "rows", "batch_size", "max_length", "learning_rate", "parameters")
    return {
        **{name: getattr(event, name) for name in names},
        "bytes": 4 * event.parameters,
        "int8_bytes": event.parameters,
        "seconds": round(event.seconds, 1),
        "disk_bytes": event.disk_bytes,
        "memory_bytes": _peak_memory() + _ADAM_BYTES * event.parameters,
    }


def plan_table(plan: dict[str, Any]) -> Table:
    """Return a plan for people."""
    sizes = {name: byte_size(plan[name]) for name in ("bytes", "int8_bytes", "disk_bytes", "memory_bytes")}
    values = {
        "domains": join_names(plan["domains"]),
        **{name: plan[name] for name in ("rows", "epochs", "steps")},
        "rows of each domain per step": plan["batch_size"],
        "tokens per text, at most": plan["max_length"],
        "learning rate": f"{plan['learning_rate']:g}",
        "weights of the student": thousands(plan["parameters"]),
        "size, fp32": sizes["bytes"],
        "size, int8, without a wide branch, about": sizes["int8_bytes"],
        "time of training, at most": duration(plan["seconds"]),
        "disk": sizes["disk_bytes"],
        "memory, about": sizes["memory_bytes"],
    }
    return key_value_table("Plan; nothing was written", values, left_aligned=(0, 1))


def _peak_memory() -> int:
    """Return the most memory that this process has used, on the GPU if there is one; 0 if unknown."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
