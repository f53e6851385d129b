"""The terminal output of a command: results to stdout, everything else to stderr.

No other module of the project writes there. Rich is imported only to draw a table or for a terminal, so
``hrkd predict`` does not need it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, TextIO

from hrkd_cli.cli.tables import Table
from hrkd_cli.errors import GateError
from hrkd_cli.events import OnEvent, ignore


@dataclass(kw_only=True)
class Console:
    """The output streams of one command.

    Attributes:
        json: stdout gets one JSON object and nothing else.
        quiet: stderr gets warnings and errors only.
        verbose: stderr gets every step and the logs of libraries.
        sources: where each option's value came from: flag, environment, file, recipe or default.
    """

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    sources: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Only rank 0 writes; error_report handles the errors of the other ranks.
        is_main = os.environ.get("RANK", "0") == "0" or "WORLD_SIZE" not in os.environ
        self._discarded = None if is_main else io.StringIO()
        # Saved because engine_output redirects sys.stdout to stderr.
        self.out: TextIO = self._discarded or sys.stdout

    @property
    def err(self) -> TextIO:
        """The current ``sys.stderr``, which a live display replaces while it is shown."""
        return self._discarded or sys.stderr

    @contextlib.contextmanager
    def engine_output(
        self, make_display: Callable[[Console], AbstractContextManager[OnEvent]] | None = None
    ) -> Iterator[OnEvent]:
        """Show the engine's events, keep stdout free of library output, and write the result of a failed gate."""
        if not self.verbose:
            _silence_libraries()
        display = make_display(self) if make_display else contextlib.nullcontext(ignore)
        try:
            with contextlib.redirect_stdout(self.err), display as on_event:
                yield on_event
        except GateError as error:
            if self.json and error.result is not None:
                self.write_json(error.result)
            raise

    def write_result(self, data: Mapping[str, Any], tables: Iterable[Table] = (), lines: Iterable[str] = ()) -> None:
        """Write a result to stdout: the JSON object with ``--json``, else tables and lines."""
        if self.json:
            self.write_json(data)
            return
        for table in tables:
            self.write_table(table)
        for line in lines:
            self.out.write(line + "\n")
        self.out.flush()

    def write_json(self, data: Mapping[str, Any], indent: int | None = 2) -> None:
        """Write one JSON object to stdout."""
        encoding = getattr(self.out, "encoding", None) or "ascii"
        ascii_only = not encoding.lower().replace("-", "").startswith("utf")
        self.out.write(json.dumps(data, ensure_ascii=ascii_only, indent=indent) + "\n")
        self.out.flush()

    def write_table(self, table: Table) -> None:
        """Write a table to stdout, wrapped to the width of a terminal."""
        from rich.box import Box
        from rich.console import Console as RichConsole
        from rich.table import Table as RichTable
        from rich.text import Text

        rich = RichConsole(file=self.out, highlight=False, width=None if is_terminal(self.out) else 10_000)
        rule = Box("    \n    \n -  \n    \n    \n    \n    \n    \n", ascii=True)  # a rule under the headings only
        drawn = RichTable(box=rule, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        drawn.show_header = any(table.columns)
        for index, heading in enumerate(table.columns):
            justify: Any = "left" if index in table.left_aligned else "right"
            style = "cyan" if index == 0 else ""
            drawn.add_column(Text(heading), justify=justify, vertical="bottom", overflow="fold", style=style)
        for row in table.rows:
            is_heading = len(row) == 1 and len(table.columns) > 1
            drawn.add_row(*(Text(cell, style="bold" if is_heading else "") for cell in row))
        with rich.capture() as capture:
            if table.title:
                rich.print(Text(table.title, style="bold"))
            rich.print(drawn)
        for line in capture.get().splitlines():
            is_rule = not line.strip("- ")  # Rich extends it into the gaps between columns
            self.out.write((line.replace("- ", "  ") if is_rule else line.rstrip()) + "\n")
        self.out.write("\n")

    def write_note(self, text: str, *, warning: bool = False) -> None:
        """Write a line to stderr; with ``--quiet``, only if it is a warning."""
        if warning or not self.quiet:
            self.err.write(wrap(f"warning: {text}" if warning else text, self.err) + "\n")
            self.err.flush()


def wrap(line: str, stream: TextIO) -> str:
    """Wrap a line at words to the width of a terminal; leave it as it is for anything else."""
    if not is_terminal(stream):
        return line
    return textwrap.fill(line, shutil.get_terminal_size().columns - 1, break_long_words=False, break_on_hyphens=False)


def is_terminal(stream: TextIO) -> bool:
    """Return whether a stream is a terminal that can move its cursor."""
    try:
        return stream.isatty() and os.environ.get("TERM") != "dumb"
    except ValueError:  # a closed stream
        return False


def _silence_libraries() -> None:
    """Silence the warnings, logs and progress bars of libraries, which would break up the display."""
    warnings.simplefilter("ignore")
    # The libraries read these variables on import, which is later. Values set by the user stay.
    for name in ("TRANSFORMERS_VERBOSITY", "DATASETS_VERBOSITY", "HF_HUB_VERBOSITY"):
        os.environ.setdefault(name, "error")
    for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(name, "1")
