"""Which domain and label names are allowed: they become folder names and ``DOMAIN/LABEL`` pairs in model files."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

from hrkd_cli.errors import DataError

# The longest file name that common file systems take.
_MAX_BYTES = 255


def check_domains(domains: Iterable[str], where: str) -> None:
    """Refuse names that could not be a folder, or that would be the same folder on some systems.

    Args:
        domains: domain names.
        where: the source, for the message.

    Raises:
        DataError: a name is refused.
    """
    seen: dict[str, str] = {}
    for name in sorted(set(domains)):
        problem = _domain_problem(name)
        if problem:
            raise DataError(f"{where}: domain name {name[:80]!r} {problem}; rename it")
        key = unicodedata.normalize("NFC", name).casefold()
        if key in seen:
            raise DataError(f"{where}: domain names {seen[key]!r} and {name!r} are equal but for case; rename one")
        seen[key] = name


def check_label(label: str, where: str) -> None:
    """Refuse a label that a terminal or a model card could not show.

    Raises:
        DataError: the label is refused.
    """
    if _has_control(label):
        raise DataError(f"{where}: label {label[:80]!r} contains a control character; rename it")


def _domain_problem(name: str) -> str | None:
    if "/" in name or "\\" in name:
        return "contains a slash"
    if _has_control(name):
        return "contains a control character"
    if name.startswith("."):
        return "starts with a dot"
    if len(name.encode()) > _MAX_BYTES:
        return f"is longer than {_MAX_BYTES} bytes"
    return None


def _has_control(name: str) -> bool:
    # Cc: control; Zl and Zp: line and paragraph separators, which also break a line.
    return any(unicodedata.category(char) in ("Cc", "Zl", "Zp") for char in name)


def short(names: Sequence[str], limit: int = 5) -> str:
    """Return the first of the names in a line."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
