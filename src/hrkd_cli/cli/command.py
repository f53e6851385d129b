"""Typer commands generated from the settings classes, with plain help pages."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from hrkd_cli.cli.console import Console
from hrkd_cli.cli.resolve import resolve_options
from hrkd_cli.command_settings import SharedOptions
from hrkd_cli.options import Option, Settings, options_of

CommandFunction = Callable[[Console, Any], None]


@dataclass(frozen=True, slots=True)
class CommandSpec:
    """A command: its settings class, its function, and the examples of its help page."""

    settings: type[Settings]
    function: CommandFunction
    examples: tuple[str, ...]

    @property
    def options(self) -> dict[str, Option]:
        """Options by name: those of the settings class, then inherited ones, then the shared options."""
        definitions = options_of(self.settings)
        classes = self.settings.__mro__
        names = dict.fromkeys(name for each in classes for name in vars(each).get("__annotations__", ()))
        options = {name: definitions[name] for name in names if name in definitions} | options_of(SharedOptions)
        return dict(sorted(options.items(), key=lambda item: (not item[1].argument, item[1].panel is None)))

    @property
    def named_options(self) -> dict[str, Option]:
        """Options that are not positional; the environment and a TOML file can set these."""
        return {name: option for name, option in self.options.items() if not option.argument}

    def run(self, values: dict[str, Any], sources: dict[str, str]) -> None:
        """Run the command with explicit values; ``sources`` tells where each value came from."""
        own_names, shared_names = options_of(self.settings), options_of(SharedOptions)
        own = {name: value for name, value in values.items() if name in own_names}
        shared = SharedOptions(**{name: value for name, value in values.items() if name in shared_names})
        from_recipe = dict.fromkeys(self.settings.recipe_defaults(own), "recipe")
        sources = {**dict.fromkeys(self.options, "default"), **from_recipe, **sources}
        console = Console(json=shared.json, quiet=shared.quiet, verbose=shared.verbose, sources=sources)
        self.function(console, self.settings.from_options(**own))


COMMANDS: dict[str, CommandSpec] = {}


def command(name: str, settings: type[Settings], *examples: str) -> Callable[[CommandFunction], CommandFunction]:
    """Register a function as a command; its docstring is the help text."""

    def register(function: CommandFunction) -> CommandFunction:
        COMMANDS[name] = CommandSpec(settings, function, examples)
        return function

    return register


def typer_callback(name: str, *, with_options: bool) -> Callable[..., None]:
    """Return the function that Typer calls, which resolves the command's options and runs it."""
    spec = COMMANDS[name]
    options = spec.options if with_options else {}

    def callback(**arguments: Any) -> None:
        given = {each: value for each, value in arguments.items() if value not in (None, [])}
        flags = {each: options[each].parse(v) if isinstance(v, str) else v for each, v in given.items()}
        spec.run(*resolve_options(name, flags, {each: other.named_options for each, other in COMMANDS.items()}))

    callback.__signature__ = inspect.Signature([*map(_typer_parameter, options.values())])  # type: ignore[attr-defined]
    callback.__doc__ = spec.function.__doc__
    return callback


def _typer_parameter(option: Option) -> inspect.Parameter:
    """Declare an option for Typer. Numbers and choices are strings there, and None means not given."""
    text = f"{option.help}  [default: {option.shown_default}]" if option.shown_default else option.help
    if option.argument:
        declaration = typer.Argument(help=text, metavar=option.metavar)
    else:
        choices = list(option.kind) if issubclass(option.kind, StrEnum) else []
        negatable = option.kind is bool and option.default is not False
        flag = f"{option.flag}/--no-{option.flag[2:]}" if negatable else option.flag
        declaration = typer.Option(
            *([flag, option.short] if option.short else [flag]),
            help=text,
            metavar=option.metavar or (f"<{'|'.join(choices)}>" if choices else None),
            rich_help_panel=option.panel,
            autocompletion=(lambda: choices) if choices else None,
        )
    takes_list = option.kind is list and (option.argument or option.repeatable)
    annotation: Any = bool if option.kind is bool else list[str] if takes_list else str
    return inspect.Parameter(
        option.name,
        kind=inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if option.required else None,
        annotation=Annotated[annotation, declaration],
    )


class PlainHelpCommand(TyperCommand):
    """A command whose help page has one section per panel, without Rich, which would take twice as long."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then one section per panel in order of appearance."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                default_title = "Shared options"
                if parameter.param_type_name == "argument":  # without its type in Python
                    default_title, record = "Arguments", (str(parameter.metavar), record[1])
                title = getattr(parameter, "rich_help_panel", None) or default_title
                sections.setdefault(title, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)
