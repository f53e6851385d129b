"""What worker processes do; arguments and results are such as JSON can hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hrkd_cli.data.sources.pieces import READERS, survey_piece
from hrkd_cli.data.sources.records import Piece, Reason
from hrkd_cli.data.sources.rows import Rules, usable_rows
from hrkd_cli.data.spool import spool_rows
from hrkd_cli.data.writing import write_split


def survey(piece: dict[str, Any]) -> list[Any]:
    """Survey a piece."""
    return survey_piece(Piece(**piece))


def spool(
    piece: dict[str, Any],
    columns: list[str],
    rules: dict[str, Any],
    pair: bool,
    wanted: list[str] | None,
    stem: str,
) -> dict[str, Any]:
    """Put the usable rows of a piece on disk.

    Returns:
        What ``Spooled`` holds, and ``dropped``: reason, domain and line of each row that cannot be used.
    """
    dropped: list[tuple[Reason, str | None, int]] = []
    place, meaning = Piece(**piece), Rules(**rules)
    rows = READERS[place.reader](place, columns, meaning.wanted)
    usable = usable_rows(rows, meaning, lambda *row: dropped.append(row))
    return {**asdict(spool_rows(usable, Path(stem), pair=pair, wanted=wanted)), "dropped": dropped}


TASKS: dict[str, Callable[..., Any]] = {"survey": survey, "spool": spool, "write": write_split}
