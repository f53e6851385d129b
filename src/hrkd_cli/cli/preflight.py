"""Before a run: checks of a command's inputs, and ``--dry-run``.

The checks need neither torch nor transformers, which take seconds to import, so that a mistyped name is reported at
once. The functions behind the commands make the same checks. A dry run is the run itself, which stops before its first
step or file.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import hrkd_cli
from hrkd_cli.choices import CacheTeacher
from hrkd_cli.cli.console import Console
from hrkd_cli.cli.progress import make_display
from hrkd_cli.cli.tables import key_value_table
from hrkd_cli.command_settings import ExportArguments
from hrkd_cli.data.dataset_folder import is_prepared
from hrkd_cli.data.sources.discover import check_source
from hrkd_cli.errors import UsageError
from hrkd_cli.events import Event, ExportStarted, OnEvent, StageStarted
from hrkd_cli.formatting import byte_size, duration, join_names, plural, thousands
from hrkd_cli.json_files import read_json
from hrkd_cli.layout import PREDICTOR_ARCHIVE, ModelFiles, student_folder
from hrkd_cli.models.model_source import (
    check_folders,
    check_student,
    resolve_model,
    resolve_teacher,
)
from hrkd_cli.outputs import check_stage_output, free_bytes
from hrkd_cli.settings import DistillArguments, TeachArguments
from hrkd_cli.trackers import check_tracker

_ADAM_BYTES = 8  # of the two moments of a weight, which the first step adds
_EXPORT_BYTES = 28  # of a weight: the graph, and its copies while it is traced and quantized
_SMALL_FILES = ("README.md", "config.json", "onnx/export.json", "onnx/self_check.json")

Plan = tuple[dict[str, Any], dict[str, Any]]  # for ``--json``, and for people


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
    check_stage_output(out, "distill", force=options.force, resume=options.resume)
    check_folders(options.teacher, {"data": Path(options.data)}, out, options)
    for source in filter(None, (options.data, options.unlabelled)):
        check_source(source)


def check_export(options: ExportArguments) -> None:
    """Raise HrkdError if the student or the data does not exist."""
    check_student(options.student)
    if options.data is not None:
        check_source(options.data)


class _Started(BaseException):
    """The run is about to take its first step, or to write its first file; the argument is its event."""


def run_arguments(options: DistillArguments | ExportArguments) -> dict[str, Any]:
    """Return the arguments of the function behind a command."""
    return {name: value for name, value in vars(options).items() if name != "dry_run"}


def show_plan(console: Console, make_plan: Callable[[Any, OnEvent], Plan], options: Any) -> None:
    """Write the plan of a run."""
    with console.engine_output(make_display) as on_event:
        plan, values = make_plan(options, on_event)
    console.write_result(plan, [key_value_table("Plan; nothing was written", values, left_aligned=(0, 1))])


def _start(run: Callable[..., Any], values: Mapping[str, Any], on_event: OnEvent) -> Any:
    """Return the event with which a run starts, and end the run there."""

    def stop(event: Event) -> None:
        if isinstance(event, StageStarted | ExportStarted):
            raise _Started(event)
        on_event(event)

    try:
        run(**values, on_event=stop)
    except _Started as started:
        return started.args[0]


def plan_distill(options: DistillArguments, on_event: OnEvent) -> Plan:
    """Return the plan of a distillation. It works in a temporary folder, and times steps that run the teacher.

    Raises:
        UsageError: the run would prepare data or fine-tune a teacher first.
    """
    from hrkd_cli.models.loading import is_classifier

    if not is_prepared(Path(options.data)):
        raise UsageError(f"--dry-run: {options.data} is not prepared yet; run hrkd prepare first")
    if options.extend is None and not is_classifier(read_json(resolve_teacher(options.teacher) / ModelFiles.config)):
        raise UsageError(f"--dry-run: {options.teacher} is not fine-tuned yet; run hrkd teach first")
    with tempfile.TemporaryDirectory() as folder:
        changed: dict[str, Any] = {"cache_teacher": CacheTeacher.OFF, "processes": None, "log_to": None}
        changed |= {"force": False, "resume": False, "out": Path(folder) / "student"}
        event: StageStarted = _start(hrkd_cli.distill, run_arguments(options) | changed, on_event)
    names = ("steps", "epochs", "domains", "rows", "batch_size", "max_length", "learning_rate", "parameters")
    plan = {
        **{name: getattr(event, name) for name in names},
        "bytes": 4 * event.parameters,
        "int8_bytes": event.parameters,
        "seconds": round(event.seconds, 1),
        "disk_bytes": event.disk_bytes,
        "memory_bytes": _peak_memory() + _ADAM_BYTES * event.parameters,
    }
    return plan, {
        "domains": join_names(plan["domains"]),
        **{name: plan[name] for name in ("rows", "epochs", "steps")},
        "rows of each domain per step": plan["batch_size"],
        "tokens per text, at most": plan["max_length"],
        "learning rate": f"{plan['learning_rate']:g}",
        "weights of the student": thousands(plan["parameters"]),
        "size, fp32": byte_size(plan["bytes"]),
        "size, int8, without a wide branch, about": byte_size(plan["int8_bytes"]),
        "time of training, at most": duration(plan["seconds"]),
        "disk": byte_size(plan["disk_bytes"]),
        "memory, about": byte_size(plan["memory_bytes"]),
    }


def plan_export(options: ExportArguments, on_event: OnEvent) -> Plan:
    """Return the plan of an export. It scores the student on dev, if the export does so, and trims its vocabulary."""
    event: ExportStarted = _start(hrkd_cli.export, run_arguments(options), on_event)
    plan: dict[str, Any] = {
        "files": [{"path": path, "bytes": size} for path, size in event.files.items()],
        "recipes": dict(event.recipes),
        "dev_rows": event.dev_rows,
        "max_drop": options.max_drop,
        "seconds": round(event.seconds, 1),
        "max_seconds": round(event.max_seconds, 1),
        "disk_bytes": event.disk_bytes,
        "free_bytes": free_bytes(options.out or options.student),
        "memory_bytes": _peak_memory() + _EXPORT_BYTES * event.parameters,
    }
    gate = "no smaller file, so nothing is checked on dev"
    if event.recipes or options.trims:
        gate = f"{plural(event.dev_rows, 'dev row')}, at most {options.max_drop:g} points lost"
    if event.recipes:
        recipes = join_names([f"{count} for {name}" for name, count in event.recipes.items()])
        gate += f", recipes: {recipes}"
    small = [*(_SMALL_FILES if event.files else ()), *([PREDICTOR_ARCHIVE] if options.runtime else [])]
    if options.out is not None or options.domain is not None or options.trims:
        small.append("tokenizer files")
    times = [duration(seconds) for seconds in dict.fromkeys((event.seconds, event.max_seconds))]
    return plan, {
        **{path: f"about {byte_size(size)}" for path, size in event.files.items()},
        "small files": ", ".join(small),
        "accuracy gate": gate,
        "self-check": "a fresh process repeats the stored predictions",
        "time, about": ", or with all recipes ".join(times),
        "disk, of which is free": f"{byte_size(plan['disk_bytes'])}, {byte_size(plan['free_bytes'])}",
        "memory, about": byte_size(plan["memory_bytes"]),
    }


def _peak_memory() -> int:
    """Return the most memory that this process has used, on the GPU if there is one; 0 if unknown."""
    import torch

    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call] # not so with --device cpu, nor in an export
        return torch.cuda.max_memory_allocated()
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
