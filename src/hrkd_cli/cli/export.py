"""``hrkd export``: a student in, ONNX files beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hrkd_cli import layout
from hrkd_cli.cli import options, tables, vocabulary
from hrkd_cli.cli.session import session
from hrkd_cli.config import DEFAULT_SEED, Device, Target

EXAMPLES = """\b
Examples:
  hrkd export --int8
  hrkd export ./student --int8 --max-drop 1.0
  hrkd export ./student --int8 --target avx2 --out ./for-old-pcs
  hrkd export --fp16 --int4
  hrkd export --int8 --domain books --trim-vocabulary --out ./books"""


def export(
    ctx: typer.Context,
    student: Annotated[Path, typer.Argument(metavar="STUDENT", help="Student folder.")] = layout.STUDENT_OUT,
    int8: Annotated[
        bool, typer.Option("--int8", help="model_quantized.onnx: int8, activations quantised when it runs.")
    ] = False,
    int8_static: Annotated[
        bool,
        typer.Option(
            "--int8-static",
            help="model_int8_static.onnx: int8 with activation ranges measured on dev; answers do not depend on "
            "padding or batch.",
        ),
    ] = False,
    fp16: Annotated[
        bool, typer.Option("--fp16", help="model_fp16.onnx: weights in half precision, arithmetic in fp32.")
    ] = False,
    int4: Annotated[
        bool, typer.Option("--int4", help="model_q4.onnx: weights in 4 bits; the smallest, for onnxruntime only.")
    ] = False,
    target: Annotated[
        Target,
        typer.Option("--target", help="CPU that int8 files are for; auto: this one. Decides the bits of the weights."),
    ] = Target.AUTO,
    max_drop: Annotated[
        float,
        typer.Option(
            "--max-drop",
            metavar="POINTS",
            help="Gate: most points of average dev accuracy that a smaller precision may lose. Where one loses more, "
            "safer recipes are tried; if none passes, exit code 3 and no file.",
        ),
    ] = 0.5,
    domain: Annotated[
        str | None,
        typer.Option(
            "--domain",
            metavar="NAME",
            help="Bake one head: plain labels, in a folder of its own that any text-classification pipeline opens.",
            show_default="all heads",
        ),
    ] = None,
    trim_vocabulary: Annotated[
        bool,
        typer.Option(
            "--trim-vocabulary",
            help="Drop the tokens that the train split does not use, in a folder of its own. Gated on the dev split.",
        ),
    ] = False,
    vocabulary_size: Annotated[
        int | None,
        typer.Option(
            "--vocabulary-size",
            metavar="N",
            help="Trim to N tokens, the most used ones.",
            show_default="all that are used",
        ),
    ] = None,
    runtime: Annotated[
        bool,
        typer.Option("--runtime", help="hrkd_runtime.pyz too: all that a device needs beside three packages."),
    ] = False,
    latency: Annotated[
        bool,
        typer.Option("--latency/--no-latency", help="Time the files, for the model card (some seconds a file)."),
    ] = True,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="DIR_OR_RAW",
            help="Data of gate and calibration (its dev split) and of trimming (its train split).",
            show_default="the data the student was made from",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="Folder that gets onnx/.", show_default="STUDENT, or STUDENT-NAME beside it"
        ),
    ] = None,
    seed: options.SeedUnused = DEFAULT_SEED,
    device: options.DeviceUnused = Device.AUTO,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    config: options.ConfigFile = None,
    force: options.Force = False,
) -> None:
    """Write a student as ONNX files, checked and gated.

    fp32 is always written; its logits must equal the student's. Smaller precisions must pass the accuracy gate. The
    student's README.md gets their accuracy, size and latency.
    """
    with session(ctx) as run:
        from hrkd_cli.onnx_export.export import export as engine

        result = engine(
            student,
            int8=int8,
            int8_static=int8_static,
            fp16=fp16,
            int4=int4,
            target=target,
            max_drop=max_drop,
            latency=latency,
            data=data,
            domain=domain,
            trim_vocabulary=trim_vocabulary,
            vocabulary_size=vocabulary_size,
            runtime=runtime,
            out=out,
            force=force,
            on_event=run.on_event,
        )
    found = result.to_json()
    run.console.result(found, [*tables.exported(found), *vocabulary.trimmed(found)], tables.gate_lines(found))
    folder = Path(found["files"][0]["path"]).parent
    run.console.hint(f"files: {folder}", f'hrkd predict {folder} "a text to classify"')
