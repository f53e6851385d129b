"""Reading of JSON files that hold one object."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hrkd_cli.errors import ModelError, one_line


def read_json(path: Path, *, missing_ok: bool = False) -> dict[str, Any]:
    """Read a JSON object; with ``missing_ok``, a missing file reads as an empty one.

    Raises:
        ModelError: the file is missing, or is not a JSON object.
    """
    if missing_ok and not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; name a whole model folder") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read as JSON ({one_line(error)})") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path}: not a JSON object")
    return content


def read_json_or_empty(path: Path) -> dict[str, Any]:
    """Read a JSON object; an empty one if the file is missing or damaged."""
    try:
        return read_json(path)
    except ModelError:
        return {}
