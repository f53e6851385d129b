"""Write the shells' completion scripts: ``python -m hrkd_cli.cli.completions completions``.

The scripts ask the installed ``hrkd`` for suggestions, so they stay right when options change.
"""

from __future__ import annotations

import sys
from pathlib import Path

# Typer makes these scripts; its module does not list what it takes from a private one among its exports.
from typer.completion import get_completion_script  # type: ignore[attr-defined]

from hrkd_cli.cli.error_report import PROGRAM

FILES = {"bash": "hrkd.bash", "zsh": "_hrkd", "fish": "hrkd.fish", "powershell": "hrkd.ps1"}


def scripts() -> dict[str, str]:
    """Return the text of each script by file name."""
    variable = f"_{PROGRAM.upper()}_COMPLETE"
    return {
        file: get_completion_script(prog_name=PROGRAM, complete_var=variable, shell=shell) + "\n"
        for shell, file in FILES.items()
    }


def write(folder: Path) -> None:
    """Write the scripts into a folder, which is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in scripts().items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m hrkd_cli.cli.completions FOLDER")
    write(Path(sys.argv[1]))
