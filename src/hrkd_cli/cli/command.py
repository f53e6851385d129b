"""A command of the program, made from its settings class: what Typer has to know, and plain help pages in sections."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from hrkd_cli.command_settings import SharedOptions
from hrkd_cli.options import SHARED, Option, Settings, options_of


class Command(TyperCommand):
    """A command whose help page has a section for each group of options. With Rich it would take twice as long."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then the command's own options, then the groups in order of appearance."""
        _write_sections(self, ctx, formatter)


class Group(TyperGroup):
    """The main page: commands first, for they are what a newcomer looks for."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the commands, then the options."""
        self.format_commands(ctx, formatter)
        _write_sections(self, ctx, formatter)


def command_options(kind: type[Settings]) -> dict[str, Option]:
    """Return all options of a command by name: the class's own first, then inherited ones, then shared ones."""
    own = options_of(kind)
    shared = {name: own.get(name, known) for name, known in options_of(SharedOptions).items()}
    names = dict.fromkeys(
        name for each in kind.__mro__ for name in vars(each).get("__annotations__", ()) if name in own
    )
    return {name: own[name] for name in names if name not in shared} | shared


def signature(options: Mapping[str, Option]) -> inspect.Signature:
    """Return the signature from which Typer makes a command."""
    parameters = [_parameter("ctx", typer.Context)]
    for known in options.values():
        annotation: Any = {bool: bool, list: list[str]}.get(known.kind, str)
        default = inspect.Parameter.empty if known.required else known.default
        if default is not None and annotation is str and not known.required:
            default = str(default)
        parameters.append(_parameter(known.name, Annotated[annotation, _declaration(known)], default))
    return inspect.Signature(parameters)


def typer_callback(options: Mapping[str, Option], run: Callable[[typer.Context, dict[str, Any]], None]) -> Any:
    """Return the function that Typer calls; ``run`` gets what the command line gave, and nothing that it did not."""

    def callback(ctx: typer.Context, **values: Any) -> None:
        given = {name: value for name, value in values.items() if value not in (None, []) and _is_given(ctx, name)}
        run(ctx, {name: options[name].parse(v) if isinstance(v, str) else v for name, v in given.items()})

    callback.__signature__ = signature(options)  # type: ignore[attr-defined]
    return callback


def _is_given(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _parameter(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _declaration(known: Option) -> Any:
    """Tell Typer what type and default do not. Numbers and choices are words to it; settings read them."""
    choices = known.kind if issubclass(known.kind, StrEnum) else None
    shown = True if known.shown is None else known.shown or False
    if known.argument:
        return typer.Argument(help=known.help, metavar=known.metavar, show_default=shown)
    flag = f"{known.flag}/--no-{known.flag[2:]}" if known.kind is bool and known.default is not False else known.flag
    return typer.Option(
        *([flag, known.short] if known.short else [flag]),
        help=known.help,
        metavar=known.metavar or (f"<{'|'.join(choices)}>" if choices else None),
        show_default=shown,
        rich_help_panel=known.panel,
        autocompletion=(lambda: list(choices)) if choices else None,
    )


def _write_sections(command: Any, ctx: Any, formatter: Any) -> None:
    sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
    for parameter in command.get_params(ctx):
        if record := parameter.get_help_record(ctx):
            group = "Arguments" if parameter.param_type_name == "argument" else "Options"
            sections.setdefault(getattr(parameter, "rich_help_panel", None) or group, []).append(record)
    shared = sections.pop(SHARED, [])
    if shared:
        # --help has no group of its own; beside the shared options is where one looks for it.
        help_record = sections["Options"].pop()
        sections[SHARED] = [*shared, help_record]
    for title, records in sections.items():
        if records:
            with formatter.section(title):
                formatter.write_dl(records)
