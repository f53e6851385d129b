"""Where an option's value comes from: flag, then environment, then file, then default.

The file is TOML: options at the top level hold for every command that has them, a table named like a command holds
for that command and wins. The environment has ``HRKD_EPOCHS`` and, for one command, ``HRKD_DISTILL_EPOCHS``. Whatever
nobody reads is an error: a misspelt setting must not pass for a default.
"""

from __future__ import annotations

import os
import tomllib
import typing
from dataclasses import fields
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from types import NoneType
from typing import Any

import typer

from hrkd_cli.config import Recipe, TrainingSettings, recipe_options
from hrkd_cli.errors import UsageError

PREFIX = "HRKD_"
# Read elsewhere: the traceback switch, and the folder of the tests' golden vectors.
RESERVED = frozenset({"HRKD_DEBUG", "HRKD_GOLDEN"})

# How Typer calls the four places, and how this project does.
_PLACES = {"COMMANDLINE": "flag", "ENVIRONMENT": "environment", "DEFAULT_MAP": "file", "DEFAULT": "default"}
# Options that take a number or a word; in TOML the number needs no quotes.
_NUMBER_OR_WORD = frozenset({"batch_size"})
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text in quotes"}


def variables(command: str, option: str) -> list[str]:
    """Return the environment variables of an option, the one that wins first."""
    return [f"{PREFIX}{command}_{option}".upper(), f"{PREFIX}{option}".upper()]


def attach_variables(group: Any) -> None:
    """Let every option of every command read its environment variables."""
    for name, command in group.commands.items():
        for option in _options(command):
            option.envvar = variables(name, option.name)
            # Two variables an option would drown the help pages; the main page states the rule once.
            option.show_envvar = False


def read_settings(ctx: typer.Context, value: Path | None) -> Path | None:
    """Check the environment and read ``--config``: the callback of that option, run before all other options.

    Raises:
        UsageError: a variable, table or key that nobody reads, a value of the wrong kind, a file that is not TOML.
    """
    if ctx.resilient_parsing:  # the shell asks for completions
        return value
    commands = ctx.find_root().command.commands  # type: ignore[attr-defined]  # the root is a group
    _check_environment(commands)
    if value is not None:
        ctx.default_map = _merged(_load(value), value, commands, str(ctx.command.name))
    return value


def sources(ctx: typer.Context) -> dict[str, str]:
    """Say for each option where its value came from: ``flag``, ``environment``, ``file``, ``recipe`` or ``default``."""
    found = {option.name: ctx.get_parameter_source(option.name) for option in _options(ctx.command)}
    places = {name: _PLACES.get(place.name, "default") for name, place in found.items() if place is not None}
    if "recipe" in places:
        given = {name: ctx.params[name] for name, place in places.items() if place != "default"}
        places |= dict.fromkeys(recipe_options(Recipe(ctx.params["recipe"]), given), "recipe")
    return places


def chosen(ctx: typer.Context, kind: type[TrainingSettings]) -> dict[str, Any]:
    """Return the values of a stage's settings, checked before anything slow is imported.

    Raises:
        UsageError: a value that no run could use.
    """
    values = {field.name: ctx.params[field.name] for field in fields(kind)}
    if "recipe" in values:
        given = {name for name, place in sources(ctx).items() if place not in ("default", "recipe")}
        values |= recipe_options(Recipe(values["recipe"]), {name: values[name] for name in given if name in values})
    settings = kind(**values)
    return {field.name: getattr(settings, field.name) for field in fields(kind)}


def expected(command: Any, option: str) -> type:
    """Return the type of an option's value, as its command's signature states it."""
    hint = typing.get_type_hints(command.callback)[option]
    kinds = [kind for kind in typing.get_args(hint) if kind is not NoneType] or [hint]
    found: type = typing.get_origin(kinds[0]) or kinds[0]
    return found


def did_you_mean(word: str, known: typing.Iterable[str]) -> str:
    """Return ``; did you mean X?``, or nothing when no known word is near."""
    near = get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _options(command: Any) -> list[Any]:
    return [parameter for parameter in command.params if parameter.param_type_name == "option"]


def _check_environment(commands: dict[str, Any]) -> None:
    options = [(name, option.name) for name, command in commands.items() for option in _options(command)]
    known = {variable for name, option in options for variable in variables(name, option)}
    for variable in sorted(os.environ):
        if variable.startswith(PREFIX) and variable not in known | RESERVED:
            raise UsageError(
                f"environment variable {variable}: no command has such an option{did_you_mean(variable, known)}"
            )


def _load(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"--config: no such file: {file}") from None
    except IsADirectoryError:
        raise UsageError(f"--config: {file} is a folder, a TOML file is needed") from None
    except UnicodeDecodeError:
        raise UsageError(f"{file}: not UTF-8, which TOML has to be") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{file}: not TOML: {error}") from None


def _merged(document: dict[str, Any], file: Path, commands: dict[str, Any], current: str) -> dict[str, Any]:
    """Check the whole file, and return what it says about the current command."""
    by_command = {name: {o.name: c for o in _options(c) if o.name != "config"} for name, c in commands.items()}
    everywhere = {option: command for options in by_command.values() for option, command in options.items()}
    tables = {key: value for key, value in document.items() if isinstance(value, dict)}
    top = _section({k: v for k, v in document.items() if k not in tables}, str(file), everywhere)
    values = {option: value for option, value in top.items() if option in by_command[current]}
    for name, table in tables.items():
        if name not in by_command:
            hint = did_you_mean(name, by_command) or f"; there are {', '.join(by_command)}"
            raise UsageError(f"{file}: no command for table [{name}]{hint}")
        section = _section(table, f"{file}: [{name}]", by_command[name])
        if name == current:
            values |= section
    return values


def _section(table: dict[str, Any], where: str, known: dict[str, Any]) -> dict[str, Any]:
    """Check one table's keys and values; hyphens and underscores are the same."""
    checked: dict[str, Any] = {}
    for key, value in table.items():
        option = key.replace("-", "_")
        if option not in known:
            raise UsageError(f"{where}: unknown key {key!r}{did_you_mean(option, known).replace('_', '-')}")
        if option in checked:
            raise UsageError(f"{where}: {key!r} is given twice, with a hyphen and with an underscore")
        if option in _NUMBER_OR_WORD and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        checked[option] = _checked(value, expected(known[option], option), f"{where}: {key}")
    return checked


def _checked(value: Any, kind: type, where: str) -> Any:
    if isinstance(value, list) and kind is str and all(isinstance(item, str) for item in value):
        return ",".join(value)  # domains = ["books", "dvd"] reads like --domains books,dvd
    if issubclass(kind, StrEnum):
        if value not in list(kind):
            raise UsageError(f"{where}: {value!r} is not one of {', '.join(kind)}{did_you_mean(str(value), kind)}")
        return value
    plain = str if kind is Path else kind
    # In Python a bool is an int too, and an int will do for a float; nothing else passes for something else.
    fits = isinstance(value, int | float) if plain is float else isinstance(value, plain)
    if not fits or (isinstance(value, bool) and plain is not bool):
        raise UsageError(f"{where}: {value!r} is not {_KINDS[plain]}")
    return value
