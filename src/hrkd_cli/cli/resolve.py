"""Resolution of options. Precedence: flag, environment, TOML file, recipe, default.

Top-level keys of the file apply to every command that has the option; the table of a command overrides them. In the
environment, ``HRKD_DISTILL_EPOCHS`` overrides ``HRKD_EPOCHS``. Unknown keys and variables are errors, so that a
misspelled option is not ignored.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
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
    config = flags.get("config", environment.get("config"))
    file = _file(Path(config), command, commands) if config else {}
    sources = dict.fromkeys(file, "file") | dict.fromkeys(environment, "environment") | dict.fromkeys(flags, "flag")
    return {**file, **environment, **flags}, sources


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
        shared, own = f"{PREFIX}{name}".upper(), f"{PREFIX}{command}_{name}".upper()
        if text := os.environ.get(own):
            values[name] = option.validate(option.parse(text), own)
        elif text := os.environ.get(shared):
            values |= _shared_value(name, text, shared, command, commands, is_text=True)
    return values


def _shared_value(
    name: str, value: Any, where: str, command: str, commands: Commands, *, is_text: bool = False
) -> dict[str, Any]:
    """Return a value for all commands in the type of one command's option; empty if only other commands can take it.

    ``batch_size`` can be ``auto`` for ``distill``, but not for ``predict``, which then has its default.

    Raises:
        UsageError: no command can take the value.
    """
    accepted, errors = {}, []
    for each in sorted(commands, key=lambda other: other != command):  # the command's own error comes first
        if option := commands[each].get(name):
            try:
                accepted[each] = option.validate(option.parse(value) if is_text else value, where)
            except UsageError as error:
                errors.append(error)
    if not accepted:
        raise errors[0]
    return {name: accepted[command]} if command in accepted else {}


def _file(file: Path, command: str, commands: Commands) -> dict[str, Any]:
    """Validate the whole file and return its values for one command."""
    document = _load(file)
    tables = {key: document.pop(key) for key, value in [*document.items()] if isinstance(value, dict)}
    values: dict[str, Any] = {}
    for name, key, value in _section(document, str(file), [name for options in commands.values() for name in options]):
        values |= _shared_value(name, value, f"{file}: {key}", command, commands)
    for table, content in tables.items():
        if table not in commands:
            suggestion = did_you_mean(table, commands) or f"; the commands are {', '.join(commands)}"
            raise UsageError(f"{file}: no command for table [{table}]{suggestion}")
        where = f"{file}: [{table}]"
        for name, key, value in _section(content, where, commands[table]):
            checked = commands[table][name].validate(value, f"{where}: {key}")
            values |= {name: checked} if table == command else {}
    return values


def _load(file: Path) -> dict[str, Any]:
    import tomllib

    if file.exists() and not (file.is_file() or file.is_dir()):
        raise UsageError(f"--config: {file}: not a regular file")
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))  # Windows editors write a byte order mark
    except OSError as error:
        raise UsageError(f"--config: {file}: cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file}: not TOML in UTF-8: {one_line(error)}") from None


def _section(table: dict[str, Any], where: str, names: Collection[str]) -> Iterator[tuple[str, str, Any]]:
    """Yield name, key and value of each option in a table; hyphens in keys are underscores."""
    seen = set()
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in names or name == "config":
            raise UsageError(f"{where}: unknown key {key!r}{did_you_mean(name, names).replace('_', '-')}")
        if name in seen:
            raise UsageError(f"{where}: {key!r} is given twice, with a hyphen and with an underscore")
        seen.add(name)
        yield name, key, value
