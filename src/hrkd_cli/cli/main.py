"""The ``hrkd`` program: its commands, and one exit for everything that can go wrong."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Container, Sequence
from typing import Annotated, Any

import typer
from typer.main import get_command

from hrkd_cli.cli import commands, error_report  # noqa: F401 - the former registers the commands
from hrkd_cli.cli.command import COMMANDS, Command, typer_callback
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
file given with --config. Exit codes: 0 done, 1 error, 2 usage, 3 a quality gate failed, 130 interrupted.
HRKD_DEBUG=1 shows tracebacks."""


def root(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
    # Typer's own --help would have it import pydantic.
    help: Annotated[bool, typer.Option("-h", "--help", help="Show this message and exit.")] = False,
) -> None:
    """Distill a multi-domain text classifier into a small student for edge CPUs."""
    if version or help or ctx.invoked_subcommand is None:
        sys.stdout.write(f"{error_report.PROGRAM} {__version__}\n" if version else ctx.get_help() + "\n")
        raise typer.Exit


def command_tree(names: Container[str] = COMMANDS) -> Any:
    """Return all commands, those in ``names`` with their options, which take time to make."""
    app = typer.Typer(name=error_report.PROGRAM, add_completion=False, rich_markup_mode=None)
    settings: Any = {"epilog": _EPILOG, "context_settings": _HELP_OPTIONS}
    app.callback(invoke_without_command=True, add_help_option=False, **settings)(root)
    for name, known in COMMANDS.items():
        epilog = "\n  ".join(["\b\nExamples:", *known.examples]) if known.examples else None
        callback = typer_callback(name, with_options=name in names)
        app.command(name, cls=Command, epilog=epilog, context_settings=_HELP_OPTIONS)(callback)
    return get_command(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program with the words after its name (None: the process's own) and return its exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    first = next((word for word in words if not word.startswith("-")), "")
    program = f"{error_report.PROGRAM} {first}" if first in COMMANDS else error_report.PROGRAM
    names: Container[str] = [first]
    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal cannot show appears as an escape instead of ending the command.
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")
    if f"_{error_report.PROGRAM.upper()}_COMPLETE" in os.environ:
        from typer.completion import completion_init  # type: ignore[attr-defined]

        completion_init()
        names = COMMANDS
        # Typer has Rich wrap the help texts to the terminal, but a suggestion must stay on its line.
        os.environ["COLUMNS"] = "1000"
    try:
        signal.signal(signal.SIGTERM, _terminate)
        code = command_tree(names).main(args=words, prog_name=error_report.PROGRAM, standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has gone (hrkd predict ... | head). What is still buffered would fail once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Exception, KeyboardInterrupt, error_report.Terminated) as error:
        return error_report.report(error, program)
    if code == error_report.INTERRUPTED:  # Typer turns Ctrl-C into an exit code
        return error_report.report(KeyboardInterrupt(), program)
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


def _terminate(_signal: int, _frame: Any) -> None:
    # A second SIGTERM, during the clean-up, ends the process the usual way.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise error_report.Terminated
