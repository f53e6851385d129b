"""The lists of arguments in docs/python.md, the functions' own signatures and the settings say the same."""

import inspect
import re
from pathlib import Path

import pytest

import hrkd_cli
from hrkd_cli.command_settings import EvalSettings, ExportSettings, PrepareSettings, ReportSettings
from hrkd_cli.options import options_of
from hrkd_cli.settings import DistillArguments, TeachArguments

PAGE = Path(__file__).parents[2] / "docs/python.md"
FUNCTIONS = {
    "prepare": PrepareSettings,
    "teach": TeachArguments,
    "distill": DistillArguments,
    "export": ExportSettings,
    "evaluate": EvalSettings,
    "report": ReportSettings,
}


def listed(function: str) -> set[str]:
    """Return the names in a section's paragraph on arguments, up to its first full stop."""
    section = re.search(rf"^## {function}\n(.*?)^## ", PAGE.read_text(encoding="utf-8"), re.S | re.M)[1]
    sentence = re.search(r"^Arguments: (.*?)\.\s", section, re.S | re.M)[1]
    names = set(re.findall(r"`([a-z_0-9]+)`", sentence))
    return (names - {"teach"}) | (listed("teach") - {"model"}) if function == "distill" else names


@pytest.mark.skipif(not PAGE.is_file(), reason="not run from a checkout")
@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_python_page_lists_every_argument(function):
    assert listed(function) == {*options_of(FUNCTIONS[function]), "on_event"}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_functions_have_the_settings_defaults(function):
    parameters = inspect.signature(getattr(hrkd_cli, function)).parameters
    for name, known in options_of(FUNCTIONS[function]).items():
        if name in parameters and not known.required and name not in ("model", "runs"):
            assert str(parameters[name].default) == str(known.default), name
