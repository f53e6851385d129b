"""Commands, made from their settings classes: what Typer must know, plain help pages, and where values come from."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from hrkd_cli.cli.console import Console
from hrkd_cli.cli.resolve import resolve
from hrkd_cli.command_settings import SharedOptions
from hrkd_cli.options import Option, Settings, options_of

Function = Callable[[Console, Any], None]


@dataclass(frozen=True, slots=True)
class Definition:
    """A command: its settings class, what runs, and examples for the help page."""

    settings: type[Settings]
    function: Function
    examples: tuple[str, ...]

    @property
    def options(self) -> dict[str, Option]:
        """Options by name: the settings class's own first, then inherited ones; those of the last panel at the end."""
        own = options_of(self.settings)
        classes = self.settings.__mro__
        names = dict.fromkeys(name for each in classes for name in vars(each).get("__annotations__", ()))
        found = {name: own[name] for name in names if name in own} | options_of(SharedOptions)
        return dict(sorted(found.items(), key=lambda item: item[1].panel is None))

    @property
    def named_options(self) -> dict[str, Option]:
        """Those that are not given by their place, which the environment and a file can give too."""
        return {name: known for name, known in self.options.items() if not known.argument}

    def run(self, given: dict[str, Any], sources: dict[str, str]) -> None:
        """Run the command with the options that were given, each read from the place that ``sources`` names."""
        known = options_of(self.settings)
        own = {name: value for name, value in given.items() if name in known}
        shared = SharedOptions(**{name: given[name] for name in options_of(SharedOptions) if name in given})
        recipe = dict.fromkeys(self.settings.recipe_defaults(own), "recipe")
        sources = {**dict.fromkeys(self.options, "default"), **recipe, **sources}
        console = Console(json=shared.json, quiet=shared.quiet, verbose=shared.verbose, sources=sources)
        self.function(console, self.settings.from_options(**own))


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

    def callback(**values: Any) -> None:
        given = {each: value for each, value in values.items() if value not in (None, [])}
        flags = {each: options[each].parse(v) if isinstance(v, str) else v for each, v in given.items()}
        known.run(*resolve(name, flags, {each: other.named_options for each, other in COMMANDS.items()}))

    callback.__signature__ = inspect.Signature([*map(_typer_parameter, options.values())])  # type: ignore[attr-defined]
    callback.__doc__ = known.function.__doc__
    return callback


def _typer_parameter(known: Option) -> inspect.Parameter:
    """Describe an option to Typer: numbers and choices are words to it, and what is not given is None."""
    text = f"{known.help}  [default: {known.shown_default}]" if known.shown_default else known.help
    if known.argument:
        declaration = typer.Argument(help=text, metavar=known.metavar)
    else:
        choices = list(known.kind) if issubclass(known.kind, StrEnum) else []
        negatable = known.kind is bool and known.default is not False
        flag = f"{known.flag}/--no-{known.flag[2:]}" if negatable else known.flag
        declaration = typer.Option(
            *([flag, known.short] if known.short else [flag]),
            help=text,
            metavar=known.metavar or (f"<{'|'.join(choices)}>" if choices else None),
            rich_help_panel=known.panel,
            autocompletion=(lambda: choices) if choices else None,
        )
    annotation: Any = bool if known.kind is bool else list[str] if known.kind is list and known.argument else str
    return inspect.Parameter(
        known.name,
        kind=inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if known.required else None,
        annotation=Annotated[annotation, declaration],
    )


class Command(TyperCommand):
    """A command whose help page has a section for each group of options. Drawn by Rich it would take twice as long."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then the command's own options, then the groups in order of appearance, shared ones last."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                group = "Arguments" if parameter.param_type_name == "argument" else "Shared options"
                sections.setdefault(getattr(parameter, "rich_help_panel", None) or group, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)
