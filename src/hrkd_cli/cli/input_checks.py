"""Checks of a command's inputs that need neither torch nor transformers, which take seconds to import.

The functions behind the commands make the same checks. Here they come first, so that a mistyped name is reported at
once.
"""

from __future__ import annotations

from hrkd_cli.command_settings import EvalSettings, ExportSettings
from hrkd_cli.data.sources.discover import check_source
from hrkd_cli.models.model_source import (
    check_classifier,
    check_student,
    resolve_model,
    resolve_teacher,
    student_spec_is_path,
)
from hrkd_cli.outputs import check_stage_output
from hrkd_cli.settings import DistillArguments, TeachArguments


def check_teach(options: TeachArguments) -> None:
    """Raise HrkdError if the output exists, or the model or the data does not."""
    check_stage_output(options.out, "teach", force=options.force, resume=options.resume)
    resolve_model(options.model)
    check_source(options.data)


def check_distill(options: DistillArguments) -> None:
    """Raise HrkdError if the output exists, or the teacher, the student or the data does not."""
    check_stage_output(options.out, "distill", force=options.force, resume=options.resume)
    resolve_teacher(options.teacher)
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
    for model in options.models or ():
        check_classifier(model)
    if options.data is not None:
        check_source(options.data)
