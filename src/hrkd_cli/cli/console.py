"""Where a command writes: results to stdout, everything else to stderr. Nothing else in the project writes there.

Rich is imported only to draw on a terminal: ``hrkd predict`` and everything piped do without it.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TextIO

from hrkd_cli.cli.tables import Table

if TYPE_CHECKING:
    from rich.console import Console as RichConsole


class Console:
    """The two streams of one command, and how they are to be written.

    Attributes:
        json: one JSON object is the only thing on stdout.
        quiet: stderr carries warnings and errors only.
        verbose: stderr carries every step and what the libraries have to say.
    """

    def __init__(self, *, json: bool = False, quiet: bool = False, verbose: bool = False) -> None:
        self.json = json
        self.quiet = quiet
        self.verbose = verbose
        # Held here: while the engine runs, sys.stdout leads to stderr, so that no library's print spoils the result.
        self.out: TextIO = sys.stdout
        self.err: TextIO = sys.stderr
        if os.environ.get("RANK", "0") != "0" and "WORLD_SIZE" in os.environ:
            # Of several processes of one run the first speaks; errors of the others go another way (see error_report).
            self.out = self.err = io.StringIO()

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

    def write_json(self, data: Mapping[str, Any]) -> None:
        """Write one JSON object to stdout, over several lines."""
        self.out.write(json.dumps(data, ensure_ascii=not _speaks_unicode(self.out), indent=2) + "\n")
        self.out.flush()

    def json_lines(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write JSON objects to stdout, one a line, and hand them on at once."""
        ascii_only = not _speaks_unicode(self.out)
        for row in rows:
            self.out.write(json.dumps(row, ensure_ascii=ascii_only) + "\n")
        self.out.flush()

    def table(self, table: Table) -> None:
        """Write a table to stdout: drawn on a terminal, aligned text elsewhere."""
        if is_terminal(self.out):
            self.rich(self.out).print(_rich_table(table))
        else:
            self.out.write(to_text(table) + "\n\n")

    def note(self, text: str) -> None:
        """Write a line of progress or advice to stderr, unless ``--quiet``."""
        if not self.quiet:
            self.err.write(text + "\n")
            self.err.flush()

    def warn(self, text: str) -> None:
        """Write a warning to stderr, ``--quiet`` or not."""
        self.err.write(f"warning: {text}\n")
        self.err.flush()

    def hint(self, done: str, following: str) -> None:
        """Write where the result lies and which command comes next."""
        self.note(done)
        self.note(f"next: {following}")

    def rich(self, stream: TextIO) -> RichConsole:
        """Return a Rich console on one of the two streams; it honours NO_COLOR itself."""
        from rich.console import Console as RichConsole

        return RichConsole(file=stream, highlight=False, soft_wrap=False)


def is_terminal(stream: TextIO) -> bool:
    """Say whether a stream is a terminal that can move its cursor."""
    try:
        return stream.isatty() and os.environ.get("TERM") != "dumb"
    except ValueError:  # a closed stream
        return False


def _speaks_unicode(stream: TextIO) -> bool:
    return (getattr(stream, "encoding", None) or "ascii").lower().replace("-", "").startswith("utf")


def _rich_table(table: Table) -> Any:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(
        title=Text(table.title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for index, heading in enumerate(table.columns):
        left = index in table.words
        drawn.add_column(
            Text(heading), justify="left" if left else "right", overflow="fold", style="cyan" if index == 0 else ""
        )
    for row in table.rows:
        # A row of one cell heads a section.
        style = "bold" if len(row) == 1 and len(table.columns) > 1 else ""
        drawn.add_row(*(Text(cell, style=style) for cell in row))
    return drawn


def to_text(table: Table) -> str:
    """Return a table as aligned text without drawing characters, fit for a pipe, a log or an e-mail."""
    headings = [heading.split("\n") for heading in table.columns]
    height = max(len(lines) for lines in headings)
    # Headings stand at the bottom of their cells, next to the numbers.
    above = list(zip(*([""] * (height - len(lines)) + lines for lines in headings), strict=True))
    # A section's head may run into the next columns, which are empty beside it.
    full = [row for row in (*above, *table.rows) if len(row) == len(table.columns)]
    widths = [max(len(row[i]) for row in full) for i in range(len(table.columns))]

    def line(row: tuple[str, ...]) -> str:
        pairs = enumerate(zip(row, widths, strict=False))  # a section's head has fewer cells
        cells = [cell.ljust(width) if i in table.words else cell.rjust(width) for i, (cell, width) in pairs]
        return "  ".join(cells).rstrip()

    title = [table.title] if table.title else []
    rule = ["  ".join("-" * width for width in widths)] if any(table.columns) else []
    return "\n".join([*title, *(line(row) for row in above if any(row)), *rule, *(line(row) for row in table.rows)])
