"""Errors of a command as a one-line message and an exit code."""

from __future__ import annotations

import errno
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import typer

from hrkd_cli.cli.console import wrap
from hrkd_cli.errors import HrkdError, ProcessError, UsageError, hide_passwords

INTERRUPTED = 130
TERMINATED = 143
PROGRAM = "hrkd"
LAUNCHED = "_HRKD_LAUNCHED"
"""Variable with the launcher's process id, for the processes of ``--processes``: it reports one of their errors."""
RESUMABLE = (" teach", " distill")  # commands with --resume

# Base class of all command-line errors; Typer exports only BadParameter.
_CommandLineError: Any = typer.BadParameter.__mro__[2]


class Terminated(SystemExit):
    """SIGTERM was received. A SystemExit, so that clean-up runs and no ``except Exception`` catches it."""

    def __init__(self) -> None:
        super().__init__(TERMINATED)


def report_error(error: BaseException, program: str) -> int:
    """Write an error to stderr as one line that starts with ``program``, and return the exit code."""
    if os.environ.get("HRKD_DEBUG") == "1":
        sys.stderr.write(hide_passwords("".join(traceback.format_exception(error))))
    text, code = describe(error, program)
    line = " ".join(hide_passwords(text).split())
    if LAUNCHED in os.environ and (file := os.environ.get("TORCHELASTIC_ERROR_FILE")):
        # The launcher terminates the other processes once one has failed; their errors are only consequences.
        secondary = isinstance(error, ProcessError | Terminated)
        content = {"message": line, "extraInfo": {"timestamp": int(time.time()), "secondary": secondary}}
        Path(file).write_text(json.dumps({"message": content}), encoding="utf-8")
        return code
    rank = os.environ.get("RANK", "0")
    line = f"{program}: {line}" if rank == "0" else f"{program}: rank {rank}: {line}"
    sys.stderr.write(wrap(line, sys.stderr) + "\n")
    sys.stderr.flush()
    return code


def describe(error: BaseException, program: str) -> tuple[str, int]:
    """Return an error's message and exit code."""
    if isinstance(error, _CommandLineError):
        return f"{_usage_message(error)} (see {program} --help)", 2
    if isinstance(error, UsageError):
        return f"{error} (see {program} --help)", error.exit_code
    if isinstance(error, HrkdError):
        return str(error), error.exit_code
    if isinstance(error, Terminated):
        return "terminated", TERMINATED
    if isinstance(error, KeyboardInterrupt) or (isinstance(error, typer.Abort) and error.__cause__ is None):
        return "interrupted", INTERRUPTED
    if isinstance(error, OSError) and error.strerror:
        if isinstance(error, FileNotFoundError) and error.filename is None:  # os.getcwd
            return "the current folder no longer exists; change to another one", 1
        where = f": {error.filename}" if error.filename else ""
        if error.errno == errno.ENOSPC:
            return f"no space left on the disk{where}; free some space or write to another disk with --out", 1
        problem = "permission denied" if error.errno in (errno.EACCES, errno.EPERM) else error.strerror
        return f"{problem}{where}", 1
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        problem = "out of GPU memory" if "CUDA" in str(error) else "out of memory"
        if not program.endswith(RESUMABLE):
            return f"{problem}; free some memory or use a smaller model", 1
        advice = "start over (--force) with a smaller --batch-size (or auto) or --max-length"
        return f"{problem}; free some memory and continue from a checkpoint with --resume, or {advice}", 1
    cause = error.__cause__ if isinstance(error, typer.Abort) and error.__cause__ else error
    return f"internal error: {type(cause).__name__}: {cause}; set HRKD_DEBUG=1 for the traceback", 1


def _usage_message(error: Any) -> str:
    """Return the message for a command-line error, in the style of hrkd's own messages."""
    if hasattr(error, "possibilities"):
        suggestions = " or ".join(sorted(error.possibilities or ()))
        return f"no such option: {error.option_name}" + (f"; did you mean {suggestions}?" if suggestions else "")
    if isinstance(error, typer.BadParameter) and (parameter := getattr(error, "param", None)) is not None:
        return f"missing {parameter.param_type_name} {parameter.metavar}"
    text = str(error.format_message()).rstrip(".")
    return text[:1].lower() + text[1:]
