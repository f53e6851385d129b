"""Generate ``completions/`` and ``docs/help.md`` from the commands: ``python scripts/generated.py``.

The completion scripts get their suggestions from the installed ``hrkd``, so they stay valid when options change.
"""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path

# Typer's public module re-exports this function without listing it in __all__.
from typer.completion import get_completion_script  # type: ignore[attr-defined]

from hrkd_cli.cli.completion import VARIABLE, improve_zsh_script
from hrkd_cli.cli.error_report import PROGRAM
from hrkd_cli.cli.main import command_tree

SHELLS = {"hrkd.bash": "bash", "_hrkd": "zsh", "hrkd.fish": "fish", "hrkd.ps1": "powershell"}
WIDTH = 100


def generate_files() -> dict[str, str]:
    """Return the text of each generated file by its path in a checkout."""
    files = {"docs/help.md": render_help_page()}
    improve_zsh_script()
    for name, shell in SHELLS.items():
        script = get_completion_script(prog_name=PROGRAM, complete_var=VARIABLE, shell=shell)
        files[f"completions/{name}"] = script + "\n"
    return files


def render_help_page() -> str:
    """Return the help of every command as Markdown, independent of the terminal."""
    tree = command_tree()
    page = "# Commands\n\nMade from the commands' own `--help` by `python scripts/generated.py`; do not edit.\n"
    for command in ([], *([name] for name in tree.commands)):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            tree.main(args=[*command, "--help"], prog_name=PROGRAM, standalone_mode=False, terminal_width=WIDTH)
        text = "\n".join(line.rstrip() for line in out.getvalue().strip().splitlines())
        page += f"\n## {' '.join([PROGRAM, *command])}\n\n```text\n{text}\n```\n"
    return page


def write_files(root: Path) -> None:
    """Write all generated files into a checkout."""
    for name, text in generate_files().items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write_files(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
