"""Which domain and label names are allowed: they become folder names and ``DOMAIN/LABEL`` pairs in model files."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from hrkd_cli.errors import DataError

_MAX_BYTES = 255  # the longest file name on common file systems
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # control characters, and the line and paragraph separators


def validate_names(domains: Iterable[str], labels: Iterable[str], source: str) -> None:
    """Check that domains can be folder names, that no two of them differ only in case, and that labels are printable.

    Raises:
        DataError: a name is not allowed.
    """
    by_folded_name: dict[str, str] = {}
    for name in sorted(set(domains)):
        problems = {
            "contains a slash": "/" in name or "\\" in name,
            "contains a control character": _CONTROL.search(name),
            "starts with a dot": name.startswith("."),
            f"is longer than {_MAX_BYTES} bytes": len(name.encode()) > _MAX_BYTES,
        }
        for problem, applies in problems.items():
            if applies:
                raise DataError(f"{source}: domain name {name[:80]!r} {problem}; rename it")
        other = by_folded_name.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if other != name:
            raise DataError(f"{source}: domain names {other!r} and {name!r} differ only in case; rename one")
    for label in labels:
        if _CONTROL.search(label):
            raise DataError(f"{source}: label {label[:80]!r} contains a control character; rename it")
