"""``hrkd predict``: texts in, JSON lines out. For an exported folder no training library is imported, nor Rich."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hrkd_cli.cli import options, texts
from hrkd_cli.cli.session import session
from hrkd_cli.config import DEFAULT_SEED, Device
from hrkd_cli.errors import UsageError

EXAMPLES = """\b
Examples:
  hrkd predict hrkd-out/student/onnx "a lovely book" "it broke in a week"
  hrkd predict hrkd-out/student/onnx new.csv --text body --domain books
  hrkd predict --self-check hrkd-out/student
  tail -f messages.txt | hrkd predict hrkd-out/student/onnx"""


_Model = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="Exported onnx folder or .onnx file (needs no torch), or a model folder."),
]
_TextsGiven = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="TEXT",
        help="Texts to label, or one .txt, .csv, .tsv, .jsonl or .parquet file. For a model of pairs: two texts "
        "with a TAB between.",
        show_default="stdin, a line a text",
    ),
]
_Input = Annotated[
    Path | None, typer.Option("--input", metavar="FILE", help="File of texts: a line a text, or columns.")
]
_Text = Annotated[
    str | None,
    typer.Option("--text", metavar="COLUMN", help="Column of the text.", show_default="found by usual names"),
]
_TextPair = Annotated[
    str | None,
    typer.Option(
        "--text-pair", metavar="COLUMN", help="Column of the second text.", show_default="found by usual names"
    ),
]
_Domain = Annotated[
    str,
    typer.Option("--domain", metavar="NAME", help="Domain whose head answers; any: mean of all heads' probabilities."),
]


_SelfCheck = Annotated[
    bool,
    typer.Option(
        "--self-check",
        help="Repeat the predictions stored in MODEL, an exported folder; exit code 1 where this machine gets others.",
    ),
]


def predict(
    ctx: typer.Context,
    model: _Model,
    texts_given: _TextsGiven = None,
    input: _Input = None,
    text: _Text = None,
    text_pair: _TextPair = None,
    domain: _Domain = "any",
    self_check: _SelfCheck = False,
    threads: options.Threads = None,
    seed: options.SeedUnused = DEFAULT_SEED,
    device: options.TorchDevice = Device.AUTO,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    config: options.ConfigFile = None,
    force: options.ForceUnused = False,
) -> None:
    """Label texts.

    Writes a JSON object a line: text, domain, label, scores. An exported folder needs no torch.
    """
    given = texts_given or []
    if self_check:
        if given or input is not None:
            raise UsageError("--self-check has texts of its own; leave out TEXT and --input")
        _check(ctx, model, threads)
        return
    file = texts.named_file(given, input)
    if file is None:
        _refuse_columns(ctx)
        if not given:
            texts.refuse_terminal()
    with session(ctx, progress=False) as run:
        from hrkd_cli.predict.predictor import Predictor

        predictor = Predictor(model, threads=threads, device=str(device))
        pair = predictor.spec.pair is True
        if file is not None:
            chunks = texts.from_file(file, text, text_pair, pair)
        elif given:
            chunks = texts.from_arguments(given, pair)
        else:
            chunks = texts.from_stdin(pair, run.console.warn)
        for firsts, seconds in chunks:
            found = predictor.predict(firsts, seconds, domain=domain)
            run.console.json_lines(prediction.to_json() for prediction in found)


def _check(ctx: typer.Context, model: str, threads: int | None) -> None:
    """Repeat a folder's stored predictions and say so in a line."""
    with session(ctx, progress=False) as run:
        from hrkd_cli.predict.selfcheck import self_check

        checked = self_check(model, threads=threads)
        found = {"passed": True, "files": [entry.to_json() for entry in checked]}
        run.console.result(found, lines=[f"self-check passed: {'; '.join(map(str, checked))}"])


def _refuse_columns(ctx: typer.Context) -> None:
    """Refuse column names on the command line where no file has columns."""
    for name in ("text", "text_pair"):
        source = ctx.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = name.replace("_", "-")
            raise UsageError(f"--{option} names a column of a file; give the file with --input")
