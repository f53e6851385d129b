"""Plain help pages with their options in groups. Drawing them with Rich would double the start-up time."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup


class Command(TyperCommand):
    """A command whose help page has a section for each group of options."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then the command's own options, then the groups in order of appearance."""
        _write_sections(self, ctx, formatter)


class Group(TyperGroup):
    """The main page: commands first, for they are what a newcomer looks for."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the commands, then the options."""
        self.format_commands(ctx, formatter)
        _write_sections(self, ctx, formatter)


def _write_sections(command: Any, ctx: Any, formatter: Any) -> None:
    sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
    for parameter in command.get_params(ctx):
        if record := parameter.get_help_record(ctx):
            group = "Arguments" if parameter.param_type_name == "argument" else "Options"
            sections.setdefault(getattr(parameter, "rich_help_panel", None) or group, []).append(record)
    shared = sections.pop("Shared options", [])
    if shared:
        # --help has no group of its own; beside the shared options is where one looks for it.
        help_record = sections["Options"].pop()
        sections["Shared options"] = [*shared, help_record]
    for title, records in sections.items():
        if records:
            with formatter.section(title):
                formatter.write_dl(records)
