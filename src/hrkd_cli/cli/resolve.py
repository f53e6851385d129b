"""Where an option's value comes from: flag, then environment, then file, then recipe, then default.

The file is TOML: options at the top level hold for every command that has them, a table named like a command holds for
that command and wins. The environment has ``HRKD_EPOCHS`` and, for one command, ``HRKD_DISTILL_EPOCHS``. Unknown keys
and variables are errors: a misspelled setting must not pass for a default.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hrkd_cli.errors import UsageError
from hrkd_cli.options import Option, did_you_mean

PREFIX = "HRKD_"
# Read elsewhere: the traceback switch, and the folder of the tests' golden vectors.
RESERVED = frozenset({"HRKD_DEBUG", "HRKD_GOLDEN"})

Commands = Mapping[str, Mapping[str, Option]]
"""Options by command and name, without those that are given by their place."""


def resolve(command: str, flags: Mapping[str, Any], commands: Commands) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the options that were given by name, and where each came from: flag, environment or file.

    Raises:
        UsageError: a variable, table or key that no command has, a value of the wrong kind, a file that is not TOML.
    """
    environment = _environment(command, commands)
    places = [("environment", environment), ("flag", flags)]
    if config := flags.get("config", environment.get("config")):
        places.insert(0, ("file", _file(Path(config), command, commands)))
    values = {name: value for _, found in places for name, value in found.items()}
    return values, {name: place for place, found in places for name in found}


def _environment(command: str, commands: Commands) -> dict[str, Any]:
    known = set(RESERVED)
    for own, options in commands.items():
        for name in options:
            known |= {f"{PREFIX}{name}".upper(), f"{PREFIX}{own}_{name}".upper()}
    for variable in sorted(os.environ):
        if variable.startswith(PREFIX) and variable not in known:
            near = did_you_mean(variable, known)
            raise UsageError(f"environment variable {variable}: no command has such an option{near}")
    found = {}
    for name, option in commands[command].items():
        for variable in (f"{PREFIX}{name}".upper(), f"{PREFIX}{command}_{name}".upper()):  # the second one wins
            if text := os.environ.get(variable):
                found[name] = option.validate(option.parse(text), variable)
    return found


def _file(file: Path, current: str, commands: Commands) -> dict[str, Any]:
    """Check the whole file, and return what it says about the current command."""
    document = _load(file)
    tables = {key: value for key, value in document.items() if isinstance(value, dict)}
    everywhere = {name: option for options in commands.values() for name, option in options.items()}
    top = _section({key: value for key, value in document.items() if key not in tables}, str(file), everywhere)
    values = {name: value for name, value in top.items() if name in commands[current]}
    for own, table in tables.items():
        if own not in commands:
            near = did_you_mean(own, commands) or f"; there are {', '.join(commands)}"
            raise UsageError(f"{file}: no command for table [{own}]{near}")
        section = _section(table, f"{file}: [{own}]", commands[own])
        values |= section if own == current else {}
    return values


def _load(file: Path) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config: {file}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:
        raise UsageError(f"{file}: not TOML in UTF-8: {error}") from None


def _section(table: dict[str, Any], where: str, known: Mapping[str, Option]) -> dict[str, Any]:
    """Check one table's keys and values; hyphens and underscores are the same."""
    checked: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in known or name == "config":
            raise UsageError(f"{where}: unknown key {key!r}{did_you_mean(name, known).replace('_', '-')}")
        if name in checked:
            raise UsageError(f"{where}: {key!r} is given twice, with a hyphen and with an underscore")
        checked[name] = known[name].validate(value, f"{where}: {key}")
    return checked
