"""Where a command writes, and what surrounds its one call into the package.

Results go to stdout, everything else to stderr; nothing else in the project writes there. Rich is imported only to draw
a table or on a terminal: ``hrkd predict`` does without it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
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
    """The two streams of one command, and how they are to be written.

    Attributes:
        json: one JSON object is the only thing on stdout.
        quiet: stderr carries warnings and errors only.
        verbose: stderr carries every step and what the libraries have to say.
        sources: where each option came from: flag, environment, file, recipe or default.
    """

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    sources: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Of several processes of one run the first speaks; errors of the others go another way (see error_report).
        is_main = os.environ.get("RANK", "0") == "0" or "WORLD_SIZE" not in os.environ
        self._nowhere = None if is_main else io.StringIO()
        # Held here: while the engine runs, sys.stdout leads to stderr, so that no library's print spoils the result.
        self.out: TextIO = self._nowhere or sys.stdout

    @property
    def err(self) -> TextIO:
        """The stderr of this moment: while a display moves there, it takes the place of ``sys.stderr``."""
        return self._nowhere or sys.stderr

    @contextlib.contextmanager
    def engine(
        self, make_display: Callable[[Console], AbstractContextManager[OnEvent]] | None = None
    ) -> Iterator[OnEvent]:
        """Run the engine; a display shows its events, and a gate's figures are written even when it fails."""
        if not self.verbose:
            _silence_libraries()
        display = make_display(self) if make_display else contextlib.nullcontext(ignore)
        try:
            # Nothing but the result may reach stdout.
            with contextlib.redirect_stdout(self.err), display as on_event:
                yield on_event
        except GateError as error:
            if self.json and error.result is not None:
                self.write_json(error.result)
            raise

    def result(self, data: Mapping[str, Any], tables: Iterable[Table] = (), lines: Iterable[str] = ()) -> None:
        """Write what a command found: the JSON object with ``--json``, else tables and lines."""
        if self.json:
            self.write_json(data)
            return
        for table in tables:
            self.table(table)
        for line in lines:
            self.out.write(line + "\n")
        self.out.flush()

    def write_json(self, data: Mapping[str, Any], indent: int | None = 2) -> None:
        """Write one JSON object to stdout."""
        encoding = getattr(self.out, "encoding", None) or "ascii"
        ascii_only = not encoding.lower().replace("-", "").startswith("utf")
        self.out.write(json.dumps(data, ensure_ascii=ascii_only, indent=indent) + "\n")
        self.out.flush()

    def table(self, table: Table) -> None:
        """Write a table to stdout, folded to its width where that is a terminal."""
        from rich.box import Box
        from rich.console import Console as RichConsole
        from rich.table import Table as RichTable
        from rich.text import Text

        rich = RichConsole(file=self.out, highlight=False, width=None if is_terminal(self.out) else 10_000)
        rule = Box("    \n    \n -  \n    \n    \n    \n    \n    \n", ascii=True)  # under the headings only
        drawn = RichTable(box=rule, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        drawn.show_header = any(table.columns)
        for index, heading in enumerate(table.columns):
            justify: Any = "left" if index in table.words else "right"
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
            is_rule = not line.strip("- ")  # Rich draws it into the gap between two columns
            self.out.write((line.replace("- ", "  ") if is_rule else line.rstrip()) + "\n")
        self.out.write("\n")

    def note(self, text: str, *, warning: bool = False) -> None:
        """Write a line of progress or advice to stderr, unless ``--quiet``, or a warning in any case."""
        if warning or not self.quiet:
            self.err.write(f"warning: {text}\n" if warning else text + "\n")
            self.err.flush()


def is_terminal(stream: TextIO) -> bool:
    """Say whether a stream is a terminal that can move its cursor."""
    try:
        return stream.isatty() and os.environ.get("TERM") != "dumb"
    except ValueError:  # a closed stream
        return False


def _silence_libraries() -> None:
    """Silence what would tear the display: warnings, log lines and progress bars of other libraries."""
    warnings.simplefilter("ignore")
    # Read at import, and the libraries are not imported yet. A user's own setting is left alone.
    for name in ("TRANSFORMERS_VERBOSITY", "DATASETS_VERBOSITY", "HF_HUB_VERBOSITY"):
        os.environ.setdefault(name, "error")
    for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(name, "1")
