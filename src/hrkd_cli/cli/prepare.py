"""``hrkd prepare``: raw text in, dataset folder out."""

from __future__ import annotations

from typing import Annotated

import typer

from hrkd_cli import layout
from hrkd_cli.cli import options, tables
from hrkd_cli.cli.session import session
from hrkd_cli.config import DEFAULT_SEED, Device, SourceFormat
from hrkd_cli.errors import UsageError

EXAMPLES = """\b
Examples:
  hrkd prepare ./reviews
  hrkd prepare reviews.csv --text body --label stars --domain shop
  hrkd prepare ./reviews --domains books,dvd --few-shot 0.1"""

_USUAL = "found by usual names"


_Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A file with a domain column; a folder with a file or a folder a domain; GLUE's MNLI folder; "
        "or the id of a dataset on the hub.",
    ),
]
_Format = Annotated[SourceFormat, typer.Option("--format", help="Layout of the source; auto looks at the files.")]
_Dev = Annotated[
    float, typer.Option("--dev", metavar="SHARE", help="Share of the rows for dev, 0 to 1, where none is given.")
]
_Test = Annotated[
    float, typer.Option("--test", metavar="SHARE", help="Share of the rows for test, 0 to 1, where none is given.")
]
_FewShot = Annotated[
    float | None,
    typer.Option(
        "--few-shot",
        metavar="SHARE",
        help="Keep this share of train, above 0 to 1, in the same label proportions.",
        show_default="all of it",
    ),
]
_Domains = Annotated[
    str | None, typer.Option("--domains", metavar="A,B", help="Keep only these domains.", show_default="all")
]
_Dedupe = Annotated[
    bool, typer.Option("--dedupe/--no-dedupe", help="Drop rows whose text the same domain has already.")
]
_Processes = Annotated[
    int | None,
    typer.Option(
        "--processes",
        metavar="N",
        help="Processes that share the work; the result does not depend on it.",
        show_default="one, or for a large source one a core",
    ),
]
_Text = Annotated[
    str | None,
    typer.Option("--text", metavar="COLUMN", help="Text.", show_default=_USUAL, rich_help_panel=options.COLUMNS),
]
_TextPair = Annotated[
    str | None,
    typer.Option(
        "--text-pair",
        metavar="COLUMN",
        help="Second text of a pair.",
        show_default=_USUAL,
        rich_help_panel=options.COLUMNS,
    ),
]
_Label = Annotated[
    str | None,
    typer.Option("--label", metavar="COLUMN", help="Label.", show_default=_USUAL, rich_help_panel=options.COLUMNS),
]
_Domain = Annotated[
    str | None,
    typer.Option("--domain", metavar="COLUMN", help="Domain.", show_default=_USUAL, rich_help_panel=options.COLUMNS),
]
_Split = Annotated[
    str | None,
    typer.Option(
        "--split",
        metavar="COLUMN",
        help="Split (train, dev or val, test).",
        show_default=_USUAL,
        rich_help_panel=options.COLUMNS,
    ),
]


def prepare(
    ctx: typer.Context,
    source: _Source,
    out: options.Out = layout.DATASET_OUT,
    format: _Format = SourceFormat.AUTO,
    dev: _Dev = 0.1,
    test: _Test = 0.1,
    few_shot: _FewShot = None,
    domains: _Domains = None,
    dedupe: _Dedupe = True,
    processes: _Processes = None,
    text: _Text = None,
    text_pair: _TextPair = None,
    label: _Label = None,
    domain: _Domain = None,
    split: _Split = None,
    seed: options.Seed = DEFAULT_SEED,
    device: options.DeviceUnused = Device.AUTO,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    config: options.ConfigFile = None,
    force: options.Force = False,
) -> None:
    """Turn raw text of several domains into a dataset folder.

    It has train, dev and test splits; those that the source has are kept. Rows that cannot be used are counted and
    shown with their file and line.
    """
    kept = _names(domains)
    with session(ctx) as run:
        from hrkd_cli.data.prepare import prepare as engine

        result = engine(
            source,
            out=out,
            format=format,
            text=text,
            text_pair=text_pair,
            label=label,
            domain=domain,
            split=split,
            dev=dev,
            test=test,
            few_shot=few_shot,
            domains=kept,
            dedupe=dedupe,
            seed=seed,
            force=force,
            processes=processes,
            on_event=run.on_event,
        )
        if run.console.json:  # the table for people says it too
            result.report(run.on_event)
    run.console.result(result.to_json(), tables.prepared(result.to_json(), result.dropped_rows))
    data = tables.option("--data", out, layout.DATASET_OUT)
    run.console.hint(f"dataset: {result.out}", f"hrkd teach --model MODEL{data}")


def _names(domains: str | None) -> list[str] | None:
    """Split ``books,dvd``."""
    if domains is None:
        return None
    names = [name.strip() for name in domains.split(",")]
    if not all(names):
        raise UsageError(f"--domains: {domains!r} has an empty name; give names with commas between, like books,dvd")
    return names
