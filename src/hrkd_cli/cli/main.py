"""The ``hrkd`` program: builds the commands, runs one, and turns every error into an exit code."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Container, Sequence
from contextlib import AbstractContextManager
from typing import Annotated, Any

import typer
from typer.main import get_command

from hrkd_cli.cli import commands, error_report  # noqa: F401 - importing commands registers them
from hrkd_cli.cli.command import COMMANDS, PlainHelpCommand, typer_callback
from hrkd_cli.cli.completion import VARIABLE, completion, install
from hrkd_cli.cli.launch import end_with_launcher
from hrkd_cli.cli.standard_streams import discard_unwritten_output, open_standard_streams
from hrkd_cli.errors import UsageError
from hrkd_cli.version import __version__

_HELP_OPTIONS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_EPILOG = """\b
From raw text to an int8 student:
  hrkd prepare ./reviews
  hrkd teach --model google-bert/bert-base-uncased
  hrkd distill
  hrkd export --int8
  hrkd eval
  hrkd predict hrkd-out/student/onnx "a text to classify"

Every option can also come from the environment (HRKD_EPOCHS, or HRKD_DISTILL_EPOCHS for one command) or from a TOML
file given with --config. Exit codes: 0 done, 1 error, 2 usage, 3 the accuracy gate failed, 130 interrupted.
HRKD_DEBUG=1 shows tracebacks."""


def root(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
    # Typer's own --install-completion and --help import pydantic.
    install_completion: Annotated[
        bool, typer.Option("--install-completion", help="Install completion for the current shell and exit.")
    ] = False,
    help: Annotated[bool, typer.Option("-h", "--help", help="Show this message and exit.")] = False,
) -> None:
    """Distill a multi-domain text classifier into a small student for CPUs."""
    if install_completion:
        sys.stdout.write(install() + "\n")
        raise typer.Exit
    if version or help or ctx.invoked_subcommand is None:
        sys.stdout.write(f"{error_report.PROGRAM} {__version__}\n" if version else ctx.get_help() + "\n")
        raise typer.Exit


def command_tree(names: Container[str] = COMMANDS) -> Any:
    """Return all commands; only those in ``names`` get their options, which take time to build."""
    app = typer.Typer(name=error_report.PROGRAM, add_completion=False, rich_markup_mode=None)
    settings: Any = {"epilog": _EPILOG, "context_settings": _HELP_OPTIONS}
    app.callback(invoke_without_command=True, add_help_option=False, **settings)(root)
    for name, spec in COMMANDS.items():
        epilog = "\n  ".join(["\b\nExamples:", *spec.examples]) if spec.examples else None
        callback = typer_callback(name, with_options=name in names)
        app.command(name, cls=PlainHelpCommand, epilog=epilog, context_settings=_HELP_OPTIONS)(callback)
    return get_command(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program with the given arguments, by default those of the process, and return the exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    command = next((word for word in words if not word.startswith("-")), "")
    program = f"{error_report.PROGRAM} {command}" if command in COMMANDS else error_report.PROGRAM
    names: Container[str] = [command]
    # Escape characters that the stream cannot encode instead of failing.
    if reconfigure := getattr(sys.stdout, "reconfigure", None):
        reconfigure(errors="backslashreplace")
    completing: AbstractContextManager[None] = contextlib.nullcontext()
    if VARIABLE in os.environ:
        names, completing = COMMANDS, completion()
    try:
        _check_encoding(words)
        signal.signal(signal.SIGTERM, _terminate)
        with completing:
            code = command_tree(names).main(args=words, prog_name=error_report.PROGRAM, standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader is gone (hrkd predict ... | head)
        return 1
    except (Exception, KeyboardInterrupt, error_report.Terminated) as error:
        return error_report.report_error(error, program)
    if code == error_report.INTERRUPTED:  # Typer turns Ctrl-C into an exit code
        return error_report.report_error(KeyboardInterrupt(), program)
    return code if isinstance(code, int) else 0


def _check_encoding(words: Sequence[str]) -> None:
    """Raise UsageError for an argument or variable that is not UTF-8, whose bytes Python passes on as surrogates."""
    variables = [f"{name}={text}" for name, text in os.environ.items() if name.startswith("HRKD_")]
    for text in (*words, *variables):
        shown = text.encode("utf-8", "backslashreplace").decode()
        if shown != text:
            raise UsageError(f"{shown}: not UTF-8; convert it")


def run() -> None:
    """Run the program as a console script."""
    open_standard_streams()
    if launcher := os.environ.get(error_report.LAUNCHED):
        end_with_launcher(int(launcher))
    code = main()
    discard_unwritten_output()
    if os.environ.get("WORLD_SIZE", "1") != "1":
        # In a distributed run, communication threads may still be running. A normal interpreter exit can abort because
        # of them, or because of the launcher's SIGTERM.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os._exit(code)
    sys.exit(code)


def _terminate(_signal: int, _frame: Any) -> None:
    # A second SIGTERM, during clean-up, kills the process.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise error_report.Terminated
