"""Numbers as people read them: durations, bytes, percentages, counts."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Return ``45 s``, ``4 min``, ``2 h 05 min``; below ten seconds with one decimal."""
    if seconds < 9.95:
        return f"{max(seconds, 0.0):.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def size(count: float) -> str:
    """Return bytes in decimal units: ``512 B``, ``14.5 MB``, ``1.2 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 99.95 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def percent(share: float, digits: int = 1) -> str:
    """Return a share of 0..1 in percent, without the sign: the column says it."""
    return f"{100 * share:.{digits}f}"


def thousands(count: float) -> str:
    """Return a count with commas between the thousands."""
    return f"{count:,.0f}"


def loss(value: float) -> str:
    """Return a loss with four significant digits, however large or small it is."""
    return f"{value:.4g}"


def one_line(text: str) -> str:
    """Return the text with every run of white space, line ends included, as one space."""
    return " ".join(text.split())


def plural(count: int, singular: str, many: str | None = None) -> str:
    """Return ``1 row``, ``3 rows``, ``1 entry``, ``2 entries``."""
    return f"{thousands(count)} {singular if count == 1 else many or singular + 's'}"
