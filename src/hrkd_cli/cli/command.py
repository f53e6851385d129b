"""Commands, made from their settings classes: what Typer must know, plain help pages, and where values come from."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from hrkd_cli.cli.console import Console
from hrkd_cli.cli.resolve import resolve
from hrkd_cli.command_settings import SharedOptions
from hrkd_cli.options import SHARED, Option, Settings, options_of

Function = Callable[[Console, Any], None]


@dataclass(frozen=True, slots=True)
class Definition:
    """A command: its settings class, what runs, and examples for the help page."""

    settings: type[Settings]
    function: Function
    examples: tuple[str, ...]

    @property
    def options(self) -> dict[str, Option]:
        """All options by name: the settings class's own first, then inherited ones, then shared ones."""
        own = options_of(self.settings)
        shared = {name: own.get(name, known) for name, known in options_of(SharedOptions).items()}
        classes = self.settings.__mro__
        names = dict.fromkeys(name for each in classes for name in vars(each).get("__annotations__", ()))
        return {name: own[name] for name in names if name in own and name not in shared} | shared

    @property
    def named_options(self) -> dict[str, Option]:
        """Those that are not given by their place, which the environment and a file can give too."""
        return {name: known for name, known in self.options.items() if not known.argument}

    def run(self, given: dict[str, Any], sources: dict[str, str]) -> None:
        """Run the command with the options that were given, each read from the place that ``sources`` names."""
        own = {name: value for name, value in given.items() if name in options_of(self.settings)}
        shared = SharedOptions(**{name: given[name] for name in options_of(SharedOptions) if name in given})
        recipe = dict.fromkeys(self.settings.brought(own), "recipe")
        sources = {**dict.fromkeys(self.options, "default"), **recipe, **sources}
        console = Console(json=shared.json, quiet=shared.quiet, verbose=shared.verbose, sources=sources)
        self.function(console, self.settings.of(**own))


COMMANDS: dict[str, Definition] = {}


def command(name: str, settings: type[Settings], *examples: str) -> Callable[[Function], Function]:
    """Make a command of a function; its docstring is the help text."""

    def register(function: Function) -> Function:
        COMMANDS[name] = Definition(settings, function, examples)
        return function

    return register


def typer_callback(name: str, *, with_options: bool) -> Callable[..., None]:
    """Return the function that Typer calls: it gathers a command's options from all places and runs it."""
    known = COMMANDS[name]
    options = known.options if with_options else {}

    def callback(ctx: typer.Context, **values: Any) -> None:
        words = {each: value for each, value in values.items() if value not in (None, []) and _is_given(ctx, each)}
        flags = {each: options[each].parse(v) if isinstance(v, str) else v for each, v in words.items()}
        known.run(*resolve(name, flags, {each: other.named_options for each, other in COMMANDS.items()}))

    parameters = [_parameter("ctx", annotation=typer.Context), *map(_typer_parameter, options.values())]
    callback.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    callback.__doc__ = known.function.__doc__
    return callback


def _is_given(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


_parameter = partial(inspect.Parameter, kind=inspect.Parameter.KEYWORD_ONLY)


def _typer_parameter(known: Option) -> inspect.Parameter:
    """Describe an option to Typer. Numbers and choices are words to it; settings read and check them."""
    choices = list(known.kind) if issubclass(known.kind, StrEnum) else []
    shown = True if known.shown is None else known.shown or False
    if known.argument:
        declaration = typer.Argument(help=known.help, metavar=known.metavar, show_default=shown)
    else:
        negatable = known.kind is bool and known.default is not False
        flag = f"{known.flag}/--no-{known.flag[2:]}" if negatable else known.flag
        declaration = typer.Option(
            *([flag, known.short] if known.short else [flag]),
            help=known.help,
            metavar=known.metavar or (f"<{'|'.join(choices)}>" if choices else None),
            show_default=shown,
            rich_help_panel=known.panel,
            autocompletion=(lambda: choices) if choices else None,
        )
    annotation: Any = bool if known.kind is bool else list[str] if known.kind is list and known.argument else str
    default = known.default if annotation is not str or known.default is None else str(known.default)
    default = inspect.Parameter.empty if known.required else default
    return _parameter(known.name, default=default, annotation=Annotated[annotation, declaration])


class Command(TyperCommand):
    """A command whose help page has a section for each group of options. Drawn by Rich it would take twice as long."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then the command's own options, then the groups in order of appearance."""
        _write_sections(self, ctx, formatter)


class Group(TyperGroup):
    """The main page: commands first, for they are what a newcomer looks for."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the commands, then the options."""
        self.format_commands(ctx, formatter)
        _write_sections(self, ctx, formatter)


def _write_sections(page: Any, ctx: Any, formatter: Any) -> None:
    sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
    for parameter in page.get_params(ctx):
        if record := parameter.get_help_record(ctx):
            group = "Arguments" if parameter.param_type_name == "argument" else "Options"
            sections.setdefault(getattr(parameter, "rich_help_panel", None) or group, []).append(record)
    if shared := sections.pop(SHARED, []):
        # --help has no group of its own; beside the shared options is where one looks for it.
        sections[SHARED] = [*shared, sections["Options"].pop()]
    for title, records in sections.items():
        if records:
            with formatter.section(title):
                formatter.write_dl(records)
