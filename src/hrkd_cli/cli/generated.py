"""Files made from the commands: ``python -m hrkd_cli.cli.generated`` rewrites ``completions/`` and ``docs/help.md``.

The completion scripts ask the installed ``hrkd`` for suggestions, so they stay right when options change.
"""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path
from typing import Any

# Typer makes these scripts; its module does not list what it takes from a private one among its exports.
from typer.completion import get_completion_script  # type: ignore[attr-defined]

from hrkd_cli.cli.error_report import PROGRAM
from hrkd_cli.cli.main import command_tree

SHELLS = {"hrkd.bash": "bash", "_hrkd": "zsh", "hrkd.fish": "fish", "hrkd.ps1": "powershell"}
WIDTH = 100


def scripts() -> dict[str, str]:
    """Return the text of each completion script by file name."""
    variable = f"_{PROGRAM.upper()}_COMPLETE"
    return {
        file: get_completion_script(prog_name=PROGRAM, complete_var=variable, shell=shell) + "\n"
        for file, shell in SHELLS.items()
    }


def help_page() -> str:
    """Return the help of every command as Markdown: the same text on every machine, whatever its terminal."""
    tree = command_tree()
    title = "# Commands\n\nMade from the commands' own `--help` by `python -m hrkd_cli.cli.generated`; do not edit.\n"
    return "\n".join([title, _section(tree), *(_section(tree, name) for name in tree.commands)])


def write(root: Path) -> None:
    """Write all files into a checkout."""
    for name, text in [("docs/help.md", help_page()), *((f"completions/{k}", text) for k, text in scripts().items())]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8", newline="\n")


def _section(tree: Any, *words: str) -> str:
    page = io.StringIO()
    with contextlib.redirect_stdout(page):
        tree.main(args=[*words, "--help"], prog_name=PROGRAM, standalone_mode=False, terminal_width=WIDTH)
    text = "\n".join(line.rstrip() for line in page.getvalue().strip().splitlines())
    return f"## {' '.join([PROGRAM, *words])}\n\n```text\n{text}\n```\n"


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
