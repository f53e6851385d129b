"""Every way a command can end badly, as one plain line and an exit code."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import typer

from hrkd_cli.cli.settings import did_you_mean, expected
from hrkd_cli.cli.units import one_line
from hrkd_cli.errors import HrkdError, ProcessError, UsageError

INTERRUPTED = 130
TERMINATED = 143
PROGRAM = "hrkd"

# Typer publishes BadParameter only; these are the errors of the command line that it derives from.
_BAD_USAGE: Any = typer.BadParameter.__mro__[1]
_BAD_COMMAND_LINE: Any = typer.BadParameter.__mro__[2]


class Terminated(SystemExit):
    """SIGTERM arrived. A SystemExit: clean-up runs, and no ``except Exception`` holds it up."""

    def __init__(self) -> None:
        super().__init__(TERMINATED)


def report(error: BaseException, program: str) -> int:
    """Write the line about an error to stderr, and return the exit code.

    Args:
        error: what ended the command.
        program: what the line starts with: ``hrkd`` or ``hrkd distill``.
    """
    if os.environ.get("HRKD_DEBUG") == "1":
        sys.stderr.write("".join(traceback.format_exception(error)))
    text, code = describe(error, program)
    line = one_line(text)
    from hrkd_cli.cli import launch

    # The launcher ends the other processes once one has failed: that they say so too is not the cause.
    if launch.hand_over(line, code, secondary=isinstance(error, (ProcessError, Terminated))):
        return code
    rank = os.environ.get("RANK", "0")
    sys.stderr.write(f"{program}: {line}\n" if rank == "0" else f"{program}: rank {rank}: {line}\n")
    sys.stderr.flush()
    return code


TRAINING = (" teach", " distill")  # commands that can go on


def describe(error: BaseException, program: str) -> tuple[str, int]:
    """Return the sentence about an error and its exit code."""
    if isinstance(error, _BAD_COMMAND_LINE):
        return f"{_usage(error)} (see {program} --help)", 2
    if isinstance(error, UsageError):
        return f"{error} (see {program} --help)", error.exit_code
    if isinstance(error, HrkdError):
        return str(error), error.exit_code
    if isinstance(error, Terminated):
        return "terminated", TERMINATED
    if isinstance(error, KeyboardInterrupt) or (isinstance(error, typer.Abort) and error.__cause__ is None):
        return "interrupted", INTERRUPTED
    if isinstance(error, OSError) and error.strerror:
        return _system(error), 1
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        what = "out of GPU memory" if "CUDA" in str(error) else "out of memory"
        if not program.endswith(TRAINING):
            return f"{what}; free some, or take a smaller model", 1
        advice = "start over (--force) with a smaller --batch-size (or auto) or --max-length"
        return f"{what}; free some and go on with --resume, if there is a checkpoint; or {advice}", 1
    cause = error.__cause__ if isinstance(error, typer.Abort) and error.__cause__ else error
    return f"internal error: {type(cause).__name__}: {cause}; set HRKD_DEBUG=1 for the traceback", 1


def program_name(arguments: Sequence[str], commands: Sequence[str]) -> str:
    """Return ``hrkd distill`` when a command was named, else ``hrkd``."""
    named = next((word for word in arguments if not word.startswith("-")), None)
    return f"{PROGRAM} {named}" if named in commands else PROGRAM


def _system(error: OSError) -> str:
    where = f": {error.filename}" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"no space left on the disk{where}; free some, or write to another disk with --out"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"permission denied{where}"
    return f"{error.strerror}{where}"


def _usage(error: Any) -> str:
    """Say what is wrong with the command line, in this project's words."""
    if hasattr(error, "possibilities"):
        near = sorted(error.possibilities or ())
        return f"no such option: {error.option_name}" + (f"; did you mean {' or '.join(near)}?" if near else "")
    parameter = getattr(error, "param", None)
    if isinstance(error, typer.BadParameter) and parameter is not None:
        if type(error) is not typer.BadParameter:  # a missing one
            return f"missing {parameter.param_type_name} {_name(parameter)}"
        return _bad_value(error, parameter)
    text = one_line(str(error.format_message())).rstrip(".")
    return text[:1].lower() + text[1:]


def _bad_value(error: Any, parameter: Any) -> str:
    """Name the option or variable, the value, and what would do."""
    where = _name(parameter)
    source = error.ctx.get_parameter_source(parameter.name) if error.ctx else None
    if source is not None and source.name == "ENVIRONMENT":
        where = next((name for name in parameter.envvar if os.environ.get(name)), where)
    elif source is not None and source.name == "DEFAULT_MAP":
        where = f"{where} (from the --config file)"
    value = _given(error)
    kind = expected(error.ctx.command, parameter.name) if error.ctx else str
    if value is None:
        return f"{where}: {one_line(error.message).rstrip('.')}"
    if kind in (int, float) and _is_number(value):
        return f"{where}: {value} is out of range ({_range(parameter)})"
    if issubclass(kind, StrEnum):
        return f"{where}: {value!r} is not one of {', '.join(kind)}{did_you_mean(str(value), kind)}"
    wanted = {int: "a whole number", float: "a number", bool: "true or false"}.get(kind, "valid")
    return f"{where}: {value!r} is not {wanted}"


def _given(error: Any) -> Any:
    """Return the refused value: the validator's error has it, or the message starts with it."""
    details = getattr(error.__cause__, "errors", None)
    if callable(details) and details():
        return details()[0].get("input")
    quoted = error.message.split("'")
    return quoted[1] if error.message.startswith("'") and len(quoted) > 2 else None


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _range(parameter: Any) -> str:
    bounds = [("at least", parameter.min), ("at most", parameter.max)]
    return " and ".join(f"{word} {bound}" for word, bound in bounds if bound is not None) or "a whole number is needed"


def _name(parameter: Any) -> str:
    if parameter.param_type_name == "option":
        return str(max(parameter.opts, key=len))
    return str(parameter.metavar or parameter.name.upper())


__all__ = ["INTERRUPTED", "PROGRAM", "TERMINATED", "Terminated", "describe", "program_name", "report"]
