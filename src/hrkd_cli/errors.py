"""Exceptions for errors that a user can cause.

A message is one line: what is wrong, where (``file:line``, column or option), what to do next. The Python API raises
the exception; the command line prints the message to stderr and exits with ``exit_code``.
"""

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class HrkdError(Exception):
    """Base of all errors that a user can cause; exit code 1 unless a subclass overrides it."""

    exit_code = 1

    def __str__(self) -> str:
        return hide_passwords(super().__str__())


class UsageError(HrkdError):
    """An invalid option or a contradiction between options; exit code 2."""

    exit_code = 2


class DataError(HrkdError):
    """A source, column, row or dataset folder is invalid."""


class ModelError(HrkdError):
    """A model or tokenizer is invalid, or two models do not match."""


class OutputError(HrkdError):
    """An output already exists or cannot be written."""


class TrainingError(HrkdError):
    """A training run cannot continue: a loss that is not finite, a weak teacher."""


class ProcessError(TrainingError):
    """Another process of the same run failed; that process reports the cause."""


class MissingPackageError(HrkdError):
    """A package that only some jobs need is not installed."""

    def __init__(self, job: str, *packages: str) -> None:
        super().__init__(f"{job} needs {', '.join(packages)}: {install_command(*packages)}")


class GateError(HrkdError):
    """The accuracy gate failed and nothing was written; exit code 3.

    Attributes:
        result: the JSON result, including the metrics that failed the gate.
    """

    exit_code = 3

    def __init__(self, message: str, result: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.result = result


def install_command(*packages: str, prefix: str = sys.prefix) -> str:
    """Return the command that installs packages next to this program, wherever pip, pipx or uv put that."""
    program, folder = __name__.partition(".")[0].replace("_", "-"), Path(prefix).as_posix()
    if "/pipx/venvs/" in folder:
        return f"pipx inject {program} {' '.join(packages)}"
    if "/uv/tools/" in folder:
        return " ".join([f"uv tool install {program}", *(f"--with {package}" for package in packages)])
    return f"{sys.executable} -m pip install {' '.join(packages)}"


def one_line(error: BaseException) -> str:
    """Return the first line of an exception's message, at most 200 characters."""
    text = hide_passwords(str(error)).strip() or type(error).__name__
    return text.splitlines()[0][:200]


def hide_passwords(text: str) -> str:
    """Return a text without the user names and passwords of its URLs."""
    return re.sub(r"(?<=://)[^/\s]+@", "***@", text)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean X?``, or an empty string if no known word is similar, in any case."""
    from difflib import get_close_matches

    folded = {name.casefold(): name for name in known}
    matches = get_close_matches(word.casefold(), list(folded), n=1)
    return f"; did you mean {folded[matches[0]]}?" if matches else ""
