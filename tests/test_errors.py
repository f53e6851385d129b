"""Exit codes of the exceptions, and one-line messages."""

import sys

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


def test_a_missing_package_is_named_with_the_command_that_installs_it():
    error = errors.MissingPackageError("serve", "uvicorn", "starlette")
    assert str(error) == f"serve needs uvicorn, starlette: {sys.executable} -m pip install uvicorn starlette"
    assert error.exit_code == 1


def test_the_install_command_fits_the_way_that_hrkd_was_installed():
    for prefix, command in (
        ("/home/u/.local/share/pipx/venvs/hrkd-cli", "pipx inject hrkd-cli wandb mlflow"),
        ("/home/u/.local/share/uv/tools/hrkd-cli", "uv tool install hrkd-cli --with wandb --with mlflow"),
    ):
        assert errors.install_command("wandb", "mlflow", prefix=prefix) == command


def test_one_line_is_the_first_line_or_the_name_of_the_type():
    assert errors.one_line(ValueError("\nfirst\nsecond")) == "first"
    assert errors.one_line(ValueError()) == "ValueError"
    assert len(errors.one_line(ValueError("x" * 500))) == 200


def test_passwords_in_urls_are_never_shown():
    url = "https://me:s3cret@hub.example/api (https://t0ken@hub.example)"
    assert (
        str(errors.DataError(f"cannot reach {url}"))
        == "cannot reach https://***@hub.example/api (https://***@hub.example)"
    )
    assert errors.one_line(OSError(f"{'x' * 170} {url}")) == f"{'x' * 170} https://***@hub.example/api ("
    assert errors.hide_passwords("a://b c@d e@f http://x/y@z") == "a://b c@d e@f http://x/y@z"


def test_a_similar_name_is_suggested():
    assert errors.did_you_mean("epoch", ["epochs", "seed"]) == "; did you mean epochs?"
    assert errors.did_you_mean("DVD", ["books", "Dvd"]) == "; did you mean Dvd?"
    assert errors.did_you_mean("xyz", ["epochs", "seed"]) == ""
