"""Standard streams that do not end a run: closed ones are opened, and messages that cannot be written are dropped."""

from __future__ import annotations

import io
import os
import sys
from typing import Any


class _BestEffortFile(io.FileIO):
    """A file that ignores errors of writing: a full disk, or a pipe that nobody reads any more."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def open_standard_streams() -> None:
    """Make the three streams usable, and stderr tolerant; only results on stdout must be written."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # closed by the caller; the next file to be opened would get its number
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115
    if os.name == "posix":  # the console of Windows needs Python's own file
        file: Any = _BestEffortFile(sys.stderr.fileno(), "w", closefd=False)
        sys.stderr = io.TextIOWrapper(file, sys.stderr.encoding, errors="backslashreplace", write_through=True)


def discard_unwritten_output() -> None:
    """Drop what could not be written to stdout; else the interpreter tries again, and exits with 120."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
