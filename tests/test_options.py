"""Options: parsing, validation, and what the help page and error messages show."""

from dataclasses import dataclass

import pytest

from hrkd_cli.choices import Graph
from hrkd_cli.errors import UsageError
from hrkd_cli.options import Range, Settings, option, option_name, options_of


@dataclass(frozen=True, kw_only=True)
class Example(Settings):
    count: int | str = option(8, "Rows.", bounds=Range(1), keyword="auto")
    rate: float | None = option(None, "Rate.", bounds=Range(0, 1, exclude_low=True), default_text="measured")
    graph: Graph = option(Graph.NONE, "Graph.", affects_result=False)  # noqa: RUF009
    names: list[str] | None = option(None, "Names.")  # noqa: RUF009
    folder: str = option("out", "Folder.")
    force: bool = option(False, "Replace.")


OPTIONS = options_of(Example)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("count", "3", 3),
        ("count", "auto", "auto"),
        ("count", "x", "x"),
        ("rate", "0.5", 0.5),
        ("force", "YES", True),
        ("force", "perhaps", "perhaps"),
        ("graph", "frozen", "frozen"),
    ],
)
def test_text_that_does_not_parse_stays_text(name, text, value):
    assert OPTIONS[name].parse(text) == value


def test_values_get_the_type_of_the_option():
    example = Example(count=4, rate=1, graph="frozen", names="a, b", folder=["x", "y"])
    assert (example.count, example.rate, example.graph) == (4, 1.0, Graph.FROZEN)
    assert (example.names, example.folder) == (["a", "b"], "x,y")
    assert Example(count="auto", names=("a",)).to_json() == {
        "count": "auto", "rate": None, "graph": "none", "names": ["a"], "folder": "out", "force": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "--count: 0 is not at least 1, or auto"),
        ({"count": 2.5}, "--count: 2.5 is not a whole number, or auto"),
        ({"count": True}, "--count: True is not a whole number, or auto"),
        ({"rate": 0}, "--rate: 0 is not above 0 and at most 1"),
        ({"rate": float("nan")}, "--rate: nan is not above 0 and at most 1"),
        ({"names": 5}, "--names: 5 is not a list of texts"),
        ({"graph": "frosen"}, "--graph: 'frosen' is not one of learned, frozen, uniform, none; did you mean frozen?"),
        ({"names": "a,,b"}, "--names: 'a,,b' has an empty name; separate the names by commas"),
        ({"folder": 3}, "--folder: 3 is not text in quotes"),
        ({"folder": range(10**40, 10**41)}, "--folder: range(1000000...0000000000000) is not text in quotes"),
        ({"force": 1}, "--force: 1 is not true or false"),
    ],
)
def test_invalid_values_are_errors_that_name_the_option(values, message):
    with pytest.raises(UsageError) as error:
        Example(**values)
    assert str(error.value) == message


def test_an_error_can_name_another_source():
    with pytest.raises(UsageError, match=r"^c\.toml: count: 0 is not at least 1"):
        OPTIONS["count"].validate(0, "c.toml: count")


def test_the_help_page_shows_defaults():
    shown = {name: each.shown_default for name, each in OPTIONS.items()}
    assert shown == {"count": "8", "rate": "measured", "graph": "none", "names": "", "folder": "out", "force": ""}


def test_options_that_do_not_affect_the_result_are_left_out():
    assert "graph" not in Example().options_affecting_result()
    assert "count" in Example().options_affecting_result()


def test_an_option_is_named_as_on_the_command_line():
    assert option_name("batch_size") == "--batch-size"
    assert option_name("probe", False) == "--no-probe"
