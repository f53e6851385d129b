"""Functions that name an option in their signature have the settings' default for it."""

import inspect

import pytest

import hrkd_cli
from hrkd_cli.command_settings import EvalSettings, ExportSettings, PrepareSettings, ReportSettings
from hrkd_cli.options import options_of
from hrkd_cli.settings import DistillArguments, TeachArguments

FUNCTIONS = {
    "prepare": PrepareSettings,
    "teach": TeachArguments,
    "distill": DistillArguments,
    "export": ExportSettings,
    "evaluate": EvalSettings,
    "report": ReportSettings,
}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_functions_have_the_settings_defaults(function):
    parameters = inspect.signature(getattr(hrkd_cli, function)).parameters
    for name, known in options_of(FUNCTIONS[function]).items():
        if name in parameters and not known.required and name not in ("model", "runs"):
            assert str(parameters[name].default) == str(known.default), name
