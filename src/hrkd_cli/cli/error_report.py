"""Every way a command can end badly, as one plain line and an exit code."""

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

from hrkd_cli.errors import HrkdError, ProcessError, UsageError

INTERRUPTED = 130
TERMINATED = 143
PROGRAM = "hrkd"
LAUNCHED = "_HRKD_LAUNCHED"
"""Set for the processes of ``--processes``: their errors go to the launcher, which says one line."""
TRAINING = (" teach", " distill")  # commands that can go on

# Typer publishes BadParameter only; this is what all errors of the command line derive from.
_BAD_COMMAND_LINE: Any = typer.BadParameter.__mro__[2]


class Terminated(SystemExit):
    """SIGTERM arrived. A SystemExit: clean-up runs, and no ``except Exception`` holds it up."""

    def __init__(self) -> None:
        super().__init__(TERMINATED)


def report(error: BaseException, program: str) -> int:
    """Write the line about an error, which starts with ``program``, to stderr, and return the exit code."""
    if os.environ.get("HRKD_DEBUG") == "1":
        sys.stderr.write("".join(traceback.format_exception(error)))
    text, code = describe(error, program)
    line = " ".join(text.split())
    if LAUNCHED in os.environ and (file := os.environ.get("TORCHELASTIC_ERROR_FILE")):
        # The launcher ends the other processes once one has failed: that they say so too is not the cause.
        secondary = isinstance(error, ProcessError | Terminated)
        content = {"message": line, "extraInfo": {"timestamp": int(time.time()), "secondary": secondary}}
        Path(file).write_text(json.dumps({"message": content}), encoding="utf-8")
        return code
    rank = os.environ.get("RANK", "0")
    sys.stderr.write(f"{program}: {line}\n" if rank == "0" else f"{program}: rank {rank}: {line}\n")
    sys.stderr.flush()
    return code


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
        where = f": {error.filename}" if error.filename else ""
        if error.errno == errno.ENOSPC:
            return f"no space left on the disk{where}; free some, or write to another disk with --out", 1
        what = "permission denied" if error.errno in (errno.EACCES, errno.EPERM) else error.strerror
        return f"{what}{where}", 1
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        what = "out of GPU memory" if "CUDA" in str(error) else "out of memory"
        if not program.endswith(TRAINING):
            return f"{what}; free some, or take a smaller model", 1
        advice = "start over (--force) with a smaller --batch-size (or auto) or --max-length"
        return f"{what}; free some and go on with --resume, if there is a checkpoint; or {advice}", 1
    cause = error.__cause__ if isinstance(error, typer.Abort) and error.__cause__ else error
    return f"internal error: {type(cause).__name__}: {cause}; set HRKD_DEBUG=1 for the traceback", 1


def _usage(error: Any) -> str:
    """Say what is wrong with the command line, in this project's words."""
    if hasattr(error, "possibilities"):
        near = " or ".join(sorted(error.possibilities or ()))
        return f"no such option: {error.option_name}" + (f"; did you mean {near}?" if near else "")
    if isinstance(error, typer.BadParameter) and (parameter := getattr(error, "param", None)) is not None:
        return f"missing {parameter.param_type_name} {parameter.metavar}"
    text = str(error.format_message()).rstrip(".")
    return text[:1].lower() + text[1:]
