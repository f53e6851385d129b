"""What surrounds the one call that a command makes: streams, progress, and libraries told to keep quiet."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping

import typer

from hrkd_cli.cli import launch
from hrkd_cli.cli.console import Console
from hrkd_cli.command_settings import SharedOptions
from hrkd_cli.errors import GateError
from hrkd_cli.events import OnEvent, ignore


class Session:
    """What a command works with beside its options.

    Attributes:
        console: where to write.
        sources: where each option came from: flag, environment, file, recipe or default.
    """

    def __init__(self, shared: SharedOptions, sources: Mapping[str, str]) -> None:
        self.console = Console(json=shared.json, quiet=shared.quiet, verbose=shared.verbose)
        self.sources = sources

    @contextlib.contextmanager
    def engine(self, *, progress: bool = True) -> Iterator[OnEvent]:
        """Run the engine: its events are shown, a gate's figures are written even when it fails.

        Args:
            progress: whether the engine reports progress at all; without it no drawing code is imported.
        """
        _hush_libraries(self.console.verbose)
        try:
            with contextlib.ExitStack() as stack:
                # Nothing but the result may reach stdout: what a library prints is none.
                stack.enter_context(contextlib.redirect_stdout(self.console.err))
                on_event: OnEvent = ignore
                if progress:
                    from hrkd_cli.cli.progress import make_display

                    on_event = stack.enter_context(make_display(self.console))
                yield on_event
        except GateError as error:
            if self.console.json and error.result is not None:
                self.console.write_json(error.result)
            raise

    def in_processes(self, processes: int | None) -> None:
        """Hand the command over to several processes where more than one is asked for, and end with their exit code."""
        if processes is not None and launch.is_wanted(processes):
            raise typer.Exit(launch.run_together(processes))


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
