"""Every way a command can end badly, as one plain line and an exit code."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import typer

from hrkd_cli.cli.formatting import one_line
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
    if isinstance(error, typer.BadParameter) and (parameter := getattr(error, "param", None)) is not None:
        return f"missing {parameter.param_type_name} {_name(parameter)}"
    text = one_line(str(error.format_message())).rstrip(".")
    return text[:1].lower() + text[1:]


def _name(parameter: Any) -> str:
    if parameter.param_type_name == "option":
        return str(max(parameter.opts, key=len))
    return str(parameter.metavar or parameter.name.upper())


__all__ = ["INTERRUPTED", "PROGRAM", "TERMINATED", "Terminated", "describe", "program_name", "report"]
