"""Which domain and label names are allowed: they become folder names and ``DOMAIN/LABEL`` pairs in model files."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from hrkd_cli.errors import DataError

_MAX_BYTES = 255
"""The longest file name that common file systems take."""
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
"""Control characters, and the separators of lines and paragraphs."""


def check_names(domains: Iterable[str], labels: Iterable[str], where: str) -> None:
    """Refuse domains that could not be a folder, or would be the same folder on some systems, and unprintable labels.

    Args:
        domains: domain names.
        labels: label names.
        where: the source, for the message.

    Raises:
        DataError: a name is refused.
    """
    seen: dict[str, str] = {}
    for name in sorted(set(domains)):
        problems = {
            "contains a slash": "/" in name or "\\" in name,
            "contains a control character": _CONTROL.search(name),
            "starts with a dot": name.startswith("."),
            f"is longer than {_MAX_BYTES} bytes": len(name.encode()) > _MAX_BYTES,
        }
        for problem, is_there in problems.items():
            if is_there:
                raise DataError(f"{where}: domain name {name[:80]!r} {problem}; rename it")
        other = seen.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if other != name:
            raise DataError(f"{where}: domain names {other!r} and {name!r} are equal but for case; rename one")
    for label in labels:
        if _CONTROL.search(label):
            raise DataError(f"{where}: label {label[:80]!r} contains a control character; rename it")


def short(names: Sequence[str], limit: int = 5) -> str:
    """Return the first of the names in a line."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
