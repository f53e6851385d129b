"""``hrkd eval``: models side by side on one split."""

from __future__ import annotations

from typing import Annotated

import typer

from hrkd_cli.cli import options, tables
from hrkd_cli.cli.session import session
from hrkd_cli.config import DEFAULT_SEED, Device, Split

EXAMPLES = """\b
Examples:
  hrkd eval
  hrkd eval hrkd-out/teacher hrkd-out/student hrkd-out/student/onnx --latency
  hrkd eval hrkd-out/student --floor
  hrkd eval hrkd-out/student/onnx --data new.csv --split all --by-label"""


def evaluate(
    ctx: typer.Context,
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL",
            help="Model folders, onnx folders or .onnx files; the first is what the others are compared with.",
            show_default="teacher, student and onnx under hrkd-out",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="DIR_OR_RAW",
            help="Prepared dataset folder, or a raw source, which is read and not written.",
            show_default="hrkd-out/dataset, else what the first model was made from",
        ),
    ] = None,
    split: Annotated[Split, typer.Option("--split", help="Part of the data.")] = Split.TEST,
    by_label: Annotated[bool, typer.Option("--by-label", help="Scores of each label too.")] = False,
    latency: Annotated[
        bool, typer.Option("--latency", help="Measure milliseconds a text (median and 95th percentile, batch 1).")
    ] = False,
    floor: Annotated[
        bool,
        typer.Option("--floor", help="Train a linear model (words, TF-IDF) on the train split beside the models."),
    ] = False,
    threads: options.Threads = None,
    seed: options.SeedUnused = DEFAULT_SEED,
    device: options.TorchDevice = Device.AUTO,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    config: options.ConfigFile = None,
    force: options.ForceUnused = False,
) -> None:
    """Score teacher, student and ONNX models side by side.

    Scores are by domain and on average; accuracy has its 95 % interval. ONNX models are scored one text at a time, and
    padded in batches beside that.
    """
    with session(ctx) as run:
        from hrkd_cli.evaluation.evaluate import evaluate as engine

        result = engine(
            models or None,
            data=data,
            split=split,
            by_label=by_label,
            latency=latency,
            threads=threads,
            device=device,
            floor=floor,
            on_event=run.on_event,
        )
    found = result.to_json()
    run.console.result(found, tables.compared(found))
    for line in tables.floor_lines(found):
        run.console.note(line)
