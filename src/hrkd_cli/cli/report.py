"""``hrkd report``: a run's records in, one HTML page out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hrkd_cli import layout
from hrkd_cli.cli import options, tables
from hrkd_cli.cli.session import session
from hrkd_cli.config import DEFAULT_SEED, Device

EXAMPLES = """\b
Examples:
  hrkd report
  hrkd report hrkd-out/teacher --out teacher.html
  hrkd report hrkd-out/student.partial
  hrkd report ./frozen ./uniform --out compared.html"""


def report(
    ctx: typer.Context,
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RUN",
            help="Folders written by teach or distill, or OUT.partial of a run that is not finished; several are "
            "compared.",
            show_default="hrkd-out/student",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="HTML file to write; a report that is there is replaced.",
            show_default="RUN/report.html, hrkd-out/report.html for several runs",
        ),
    ] = None,
    seed: options.SeedUnused = DEFAULT_SEED,
    device: options.DeviceUnused = Device.AUTO,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    config: options.ConfigFile = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Replace a file that is no report.", rich_help_panel=options.SHARED),
    ] = False,
) -> None:
    """Write one HTML page about a run: losses, dev scores, ratios, exported files.

    The page needs no network and nothing beside it. A run that is under way can be looked at, too.
    """
    with session(ctx) as run:
        from hrkd_cli.reporting.report import report as engine

        result = engine(runs or layout.STUDENT_OUT, out=out, force=force, on_event=run.on_event)
    found = result.to_json()
    run.console.result(found, tables.reported(found))
    run.console.note(f"page: {result.out}")
