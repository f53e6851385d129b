"""Resolution of options. Precedence: flag, environment, TOML file, recipe, default.

Top-level keys of the file apply to every command that has the option; the table of a command overrides them. In the
environment, ``HRKD_DISTILL_EPOCHS`` overrides ``HRKD_EPOCHS``. Unknown keys and variables are errors, so that a
misspelled option is not ignored.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hrkd_cli.errors import UsageError, did_you_mean, one_line
from hrkd_cli.options import Option

PREFIX = "HRKD_"
# Read elsewhere: the traceback switch, and the folder of the tests' golden vectors.
RESERVED = frozenset({"HRKD_DEBUG", "HRKD_GOLDEN"})

Commands = Mapping[str, Mapping[str, Option]]  # named options by command and name


def resolve_options(
    command: str, flags: Mapping[str, Any], commands: Commands
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the explicit values of a command's options, and the source of each: flag, environment or file.

    Raises:
        UsageError: an unknown variable, table or key, an invalid value, or a file that is not TOML.
    """
    environment = _environment(command, commands)
    layers = [("environment", environment), ("flag", flags)]
    if config := flags.get("config", environment.get("config")):
        layers.insert(0, ("file", _file(Path(config), command, commands)))
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for source, layer in layers:  # later layers override earlier ones
        values.update(layer)
        sources.update(dict.fromkeys(layer, source))
    return values, sources


def _environment(command: str, commands: Commands) -> dict[str, Any]:
    known = set(RESERVED)
    for each, options in commands.items():
        for name in options:
            known |= {f"{PREFIX}{name}".upper(), f"{PREFIX}{each}_{name}".upper()}
    for variable in sorted(os.environ):
        if variable.startswith(PREFIX) and variable not in known:
            suggestion = did_you_mean(variable, known)
            raise UsageError(f"environment variable {variable}: no command has this option{suggestion}")
    values = {}
    for name, option in commands[command].items():
        for variable in (f"{PREFIX}{name}".upper(), f"{PREFIX}{command}_{name}".upper()):  # the second one wins
            if text := os.environ.get(variable):
                values[name] = option.validate(option.parse(text), variable)
    return values


def _file(file: Path, command: str, commands: Commands) -> dict[str, Any]:
    """Validate the whole file and return its values for one command."""
    document = _load(file)
    tables = {key: value for key, value in document.items() if isinstance(value, dict)}
    all_options = {name: option for options in commands.values() for name, option in options.items()}
    top = _section({key: value for key, value in document.items() if key not in tables}, str(file), all_options)
    values = {name: value for name, value in top.items() if name in commands[command]}
    for name, table in tables.items():
        if name not in commands:
            suggestion = did_you_mean(name, commands) or f"; the commands are {', '.join(commands)}"
            raise UsageError(f"{file}: no command for table [{name}]{suggestion}")
        section = _section(table, f"{file}: [{name}]", commands[name])
        values |= section if name == command else {}
    return values


def _load(file: Path) -> dict[str, Any]:
    import tomllib

    if file.exists() and not (file.is_file() or file.is_dir()):
        raise UsageError(f"--config: {file}: not a regular file")
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config: {file}: cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file}: not TOML in UTF-8: {one_line(error)}") from None


def _section(table: dict[str, Any], where: str, options: Mapping[str, Option]) -> dict[str, Any]:
    """Validate the keys and values of one table; hyphens in keys are underscores."""
    values: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in options or name == "config":
            raise UsageError(f"{where}: unknown key {key!r}{did_you_mean(name, options).replace('_', '-')}")
        if name in values:
            raise UsageError(f"{where}: {key!r} is given twice, with a hyphen and with an underscore")
        values[name] = options[name].validate(value, f"{where}: {key}")
    return values
