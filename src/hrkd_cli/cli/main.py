"""The ``hrkd`` program: its commands, and one exit for everything that can go wrong."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.main import get_command

from hrkd_cli import __version__
from hrkd_cli.cli import commands, failures, info, launch, predict
from hrkd_cli.cli.command import Command, Group, command_options, typer_callback
from hrkd_cli.cli.resolve import resolve
from hrkd_cli.cli.session import Session
from hrkd_cli.command_settings import (
    EvalSettings,
    ExportSettings,
    InfoSettings,
    PredictSettings,
    PrepareSettings,
    ReportSettings,
    SharedOptions,
)
from hrkd_cli.options import Settings, options_of
from hrkd_cli.settings import DistillArguments, TeachArguments

_HELP_OPTIONS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

app = typer.Typer(
    name=failures.PROGRAM,
    cls=Group,
    add_completion=False,
    rich_markup_mode=None,
    context_settings=_HELP_OPTIONS,
    epilog="""\b
From raw text to an int8 student:
  hrkd prepare ./reviews
  hrkd teach --model google-bert/bert-base-uncased
  hrkd distill
  hrkd export --int8
  hrkd eval
  hrkd predict hrkd-out/student/onnx "a text to classify"

Every option can also come from the environment (HRKD_EPOCHS, or HRKD_DISTILL_EPOCHS for one command) or from a TOML
file given with --config. Exit codes: 0 done, 1 error, 2 usage, 3 a quality gate failed, 130 interrupted.
HRKD_DEBUG=1 shows tracebacks.""",
)

COMMANDS: dict[str, tuple[type[Settings], Callable[[Session, Any], None], str]] = {
    "prepare": (
        PrepareSettings,
        commands.prepare,
        """hrkd prepare ./reviews
  hrkd prepare reviews.csv --text body --label stars --domain shop
  hrkd prepare ./reviews --domains books,dvd --few-shot 0.1""",
    ),
    "teach": (
        TeachArguments,
        commands.teach,
        """hrkd teach --model google-bert/bert-base-uncased
  hrkd teach --model ./encoder --data ./reviews --epochs 2""",
    ),
    "distill": (
        DistillArguments,
        commands.distill,
        """hrkd distill
  hrkd distill --student 4x312 --epochs 5
  hrkd distill --teacher google-bert/bert-base-uncased --data ./reviews""",
    ),
    "eval": (
        EvalSettings,
        commands.evaluate,
        """hrkd eval
  hrkd eval hrkd-out/teacher hrkd-out/student hrkd-out/student/onnx --latency
  hrkd eval hrkd-out/student --floor
  hrkd eval hrkd-out/student/onnx --data new.csv --split all --by-label""",
    ),
    "export": (
        ExportSettings,
        commands.export,
        """hrkd export --int8
  hrkd export ./student --int8 --max-drop 1.0
  hrkd export ./student --int8 --target avx2 --out ./for-old-pcs
  hrkd export --fp16 --int4
  hrkd export --int8 --domain books --trim-vocabulary --out ./books""",
    ),
    "predict": (
        PredictSettings,
        predict.predict,
        """hrkd predict hrkd-out/student/onnx "a lovely book" "it broke in a week"
  hrkd predict hrkd-out/student/onnx new.csv --text body --domain books
  hrkd predict --self-check hrkd-out/student
  tail -f messages.txt | hrkd predict hrkd-out/student/onnx""",
    ),
    "report": (
        ReportSettings,
        commands.report,
        """hrkd report
  hrkd report hrkd-out/teacher --out teacher.html
  hrkd report hrkd-out/student.partial
  hrkd report ./frozen ./uniform --out compared.html""",
    ),
    "info": (InfoSettings, info.info, ""),
}
"""Settings class, function and examples of each command."""


def _add(name: str, kind: type[Settings], function: Callable[[Session, Any], None], examples: str) -> None:
    def run(_ctx: typer.Context, flags: dict[str, Any]) -> None:
        every = {each: command_options(settings) for each, (settings, _, _) in COMMANDS.items()}
        given, sources = resolve(name, flags, every)
        own = {each: value for each, value in given.items() if each in options_of(kind)}
        settings = kind.of(**own)
        shared = SharedOptions(**{each: given[each] for each in options_of(SharedOptions) if each in given})
        recipe = dict.fromkeys(kind.brought(own), "recipe")
        function(Session(shared, {**dict.fromkeys(every[name], "default"), **recipe, **sources}), settings)

    epilog = f"\b\nExamples:\n  {examples}" if examples else None
    app.command(name, cls=Command, epilog=epilog, help=function.__doc__, context_settings=_HELP_OPTIONS)(
        typer_callback(command_options(kind), run)
    )


for _name, _command in COMMANDS.items():
    _add(_name, *_command)


def _show_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"{failures.PROGRAM} {__version__}\n")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Distill a multi-domain text classifier into a small student for edge CPUs."""
    if ctx.invoked_subcommand is None:
        sys.stdout.write(ctx.get_help() + "\n")


def command() -> Any:
    """Return the command tree."""
    return get_command(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code.

    Args:
        arguments: the words after the program's name; None takes the process's own.
    """
    tree = command()
    words = sys.argv[1:] if arguments is None else arguments
    launch.remember(words)
    program = failures.program_name(words, tree.commands)
    _accept_any_text()
    if f"_{failures.PROGRAM.upper()}_COMPLETE" in os.environ:
        from typer.completion import completion_init  # type: ignore[attr-defined]

        completion_init()
        # Typer has Rich wrap the help texts to the terminal, but a suggestion must stay on its line.
        os.environ["COLUMNS"] = "1000"
    try:
        signal.signal(signal.SIGTERM, _terminate)
        code = tree.main(args=arguments, prog_name=failures.PROGRAM, standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        return _reader_left()
    except (Exception, KeyboardInterrupt, failures.Terminated) as error:
        return failures.report(error, program)
    if code == failures.INTERRUPTED:  # Typer turns Ctrl-C into an exit code
        return failures.report(KeyboardInterrupt(), program)
    return code if isinstance(code, int) else 0


def run() -> None:
    """Run the program as a console script."""
    code = main()
    if os.environ.get("WORLD_SIZE", "1") != "1":
        # One process of several: all is written and said. The threads that carry messages between them may still be
        # running, and Python's way out can abort on those, or trip over the launcher's SIGTERM.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


def _accept_any_text() -> None:
    """Let a character that the terminal cannot show appear as an escape instead of ending the command."""
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")


def _terminate(_signal: int, _frame: Any) -> None:
    # A second SIGTERM, during the clean-up, ends the process the usual way.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise failures.Terminated


def _reader_left() -> int:
    """End quietly when whoever read stdout has gone (``hrkd predict ... | head``)."""
    # What is still buffered would fail once more when the interpreter flushes it.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
