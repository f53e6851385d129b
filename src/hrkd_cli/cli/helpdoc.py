"""Print the help of every command as Markdown: ``python -m hrkd_cli.cli.helpdoc > docs/help.md``."""

from __future__ import annotations

import contextlib
import io
import sys

from hrkd_cli.cli.error_report import PROGRAM
from hrkd_cli.cli.main import command

WIDTH = 100


def markdown() -> str:
    """Return the page: the same text on every machine, whatever its terminal."""
    tree = command()
    parts = [
        "# Commands\n",
        "Made from the commands' own `--help` by `python -m hrkd_cli.cli.helpdoc > docs/help.md`; do not edit.\n",
        _section(tree, []),
        *(_section(tree, [name]) for name in tree.commands),
    ]
    return "\n".join(parts)


def _section(tree: object, words: list[str]) -> str:
    title = " ".join([PROGRAM, *words])
    page = io.StringIO()
    with contextlib.redirect_stdout(page):
        tree.main(  # type: ignore[attr-defined]
            args=[*words, "--help"], prog_name=PROGRAM, standalone_mode=False, terminal_width=WIDTH
        )
    text = "\n".join(line.rstrip() for line in page.getvalue().strip().splitlines())
    return f"## {title}\n\n```text\n{text}\n```\n"


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8", newline="\n")  # type: ignore[union-attr]
    sys.stdout.write(markdown())
