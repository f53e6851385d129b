"""What surrounds the one call that a command makes: streams, progress, and libraries told to keep quiet."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import typer

from hrkd_cli.cli.console import Console
from hrkd_cli.errors import GateError
from hrkd_cli.events import OnEvent, ignore


@dataclass(frozen=True, slots=True)
class Session:
    """What a command works with.

    Attributes:
        console: where to write.
        on_event: what the engine reports to.
    """

    console: Console
    on_event: OnEvent


@contextlib.contextmanager
def session(ctx: typer.Context, *, progress: bool = True) -> Iterator[Session]:
    """Run a command's engine call: its events are shown, a gate's figures are written even when it fails.

    Args:
        ctx: the command's context, for its shared options.
        progress: whether the engine reports progress at all; without it no drawing code is imported.
    """
    console = Console(json=ctx.params["json"], quiet=ctx.params["quiet"], verbose=ctx.params["verbose"])
    _hush_libraries(console.verbose)
    try:
        with contextlib.ExitStack() as stack:
            # Under --json nothing but the result may reach stdout; without it a library's print is no result either.
            stack.enter_context(contextlib.redirect_stdout(console.err))
            on_event: OnEvent = ignore
            if progress:
                from hrkd_cli.cli.display import make_display

                on_event = stack.enter_context(make_display(console))
            yield Session(console, on_event)
    except GateError as error:
        if console.json and error.result is not None:
            console.write_json(error.result)
        raise


def _hush_libraries(verbose: bool) -> None:
    """Silence what would tear the display: warnings, log lines and progress bars of other libraries."""
    if verbose:
        return
    warnings.simplefilter("ignore")
    # Read at import, and the libraries are not imported yet. A user's own setting is left alone.
    for name in ("TRANSFORMERS_VERBOSITY", "DATASETS_VERBOSITY", "HF_HUB_VERBOSITY"):
        os.environ.setdefault(name, "error")
    for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(name, "1")
