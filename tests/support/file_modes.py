"""Permissions of output files."""

from __future__ import annotations

import os
from pathlib import Path


def unusual_modes(folder: Path) -> dict[str, str]:
    """Return the mode of each file that does not have the permissions of a new file, by name."""
    os.umask(mask := os.umask(0))
    modes = {str(path.relative_to(folder)): path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()}
    return {name: oct(mode) for name, mode in modes.items() if mode != 0o666 & ~mask}
