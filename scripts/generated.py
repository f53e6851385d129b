"""Files made from the commands: ``python scripts/generated.py`` rewrites ``completions/`` and ``docs/help.md``.

The completion scripts ask the installed ``hrkd`` for suggestions, so they stay right when options change.
"""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path

# Typer makes these scripts; its module does not list what it takes from a private one among its exports.
from typer.completion import get_completion_script  # type: ignore[attr-defined]

from hrkd_cli.cli.error_report import PROGRAM
from hrkd_cli.cli.main import command_tree

SHELLS = {"hrkd.bash": "bash", "_hrkd": "zsh", "hrkd.fish": "fish", "hrkd.ps1": "powershell"}
WIDTH = 100


def files() -> dict[str, str]:
    """Return the text of each file by its path in a checkout."""
    found = {"docs/help.md": help_page()}
    for name, shell in SHELLS.items():
        script = get_completion_script(prog_name=PROGRAM, complete_var=f"_{PROGRAM.upper()}_COMPLETE", shell=shell)
        found[f"completions/{name}"] = script + "\n"
    return found


def help_page() -> str:
    """Return the help of every command as Markdown: the same text on every machine, whatever its terminal."""
    tree = command_tree()
    page = "# Commands\n\nMade from the commands' own `--help` by `python scripts/generated.py`; do not edit.\n"
    for words in ([], *([name] for name in tree.commands)):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            tree.main(args=[*words, "--help"], prog_name=PROGRAM, standalone_mode=False, terminal_width=WIDTH)
        text = "\n".join(line.rstrip() for line in out.getvalue().strip().splitlines())
        page += f"\n## {' '.join([PROGRAM, *words])}\n\n```text\n{text}\n```\n"
    return page


def write(root: Path) -> None:
    """Write all files into a checkout."""
    for name, text in files().items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
