"""Every error that a user can cause.

The message is one plain line: what is wrong, where (``file:line``, column or option), what to do next. The command
line prints it on stderr and exits with ``exit_code``; the Python API raises it.
"""

from typing import Any


class HrkdError(Exception):
    """Base of all errors that a user can cause: exit code 1 unless a class says otherwise."""

    exit_code = 1


class UsageError(HrkdError):
    """Options that contradict each other, or a value that no run could use: exit code 2."""

    exit_code = 2


class DataError(HrkdError):
    """Something is wrong with a source, a column, a row or a prepared folder."""


class ModelError(HrkdError):
    """Something is wrong with a model, a tokenizer, or with two models that should fit each other."""


class OutputError(HrkdError):
    """An output exists already or cannot be written."""


class TrainingError(HrkdError):
    """A training run cannot go on (a loss that is not a number, a weak teacher)."""


class ProcessError(TrainingError):
    """Another process of the same run is gone: its own error is the one to read."""


class GateError(HrkdError):
    """A quality gate failed, and nothing was written: exit code 3.

    Attributes:
        result: what the job would have returned as JSON, with the figures that failed the gate.
    """

    exit_code = 3

    def __init__(self, message: str, result: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.result = result


def one_line(error: BaseException) -> str:
    """Return the first line of an exception's text, for a message of one line."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
