"""Exit codes of the exceptions, and one-line messages."""

import pytest

from hrkd_cli import errors


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UsageError, 2),
        (errors.DataError, 1),
        (errors.ModelError, 1),
        (errors.OutputError, 1),
        (errors.TrainingError, 1),
        (errors.ProcessError, 1),
        (errors.GateError, 3),
    ],
)
def test_every_error_has_an_exit_code(error, code):
    assert issubclass(error, errors.HrkdError)
    assert error("message").exit_code == code


def test_one_line_is_the_first_line_or_the_name_of_the_type():
    assert errors.one_line(ValueError("\nfirst\nsecond")) == "first"
    assert errors.one_line(ValueError()) == "ValueError"
    assert len(errors.one_line(ValueError("x" * 500))) == 200
