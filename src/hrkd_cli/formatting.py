"""Human-readable durations, sizes, percentages, counts and lists of names."""

from __future__ import annotations

from collections.abc import Sequence


def duration(seconds: float) -> str:
    """Return ``45 s``, ``4 min``, ``2 h 05 min``; one decimal below ten seconds."""
    if seconds < 99.5:
        return f"{max(seconds, 0.0):.{1 if seconds < 9.95 else 0}f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def byte_size(count: float) -> str:
    """Return a number of bytes in decimal units: ``512 B``, ``14.5 MB``, ``1.2 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 99.95 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def percent(fraction: float | None, digits: int = 1) -> str:
    """Return a fraction as a percentage without the percent sign; ``-`` for None."""
    return "-" if fraction is None else f"{100 * fraction:.{digits}f}"


def thousands(count: float | None) -> str:
    """Return a count with thousands separators; ``-`` for None."""
    return "-" if count is None else f"{count:,.0f}"


def megabytes(count: float | None) -> str:
    """Return a number of bytes in MB, without the unit; ``-`` for None or 0."""
    return f"{count / 1e6:.1f}" if count else "-"


def plural(count: int, singular: str) -> str:
    """Return ``1 row``, ``3 rows``."""
    return f"{thousands(count)} {singular}{'' if count == 1 else 's'}"


def join_names(names: Sequence[str], limit: int = 5) -> str:
    """Return ``a, b, c``; beyond the limit ``a, b and 7 more``."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
