"""Which domain and label names are allowed: they become folder names and ``DOMAIN/LABEL`` pairs in model files."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from hrkd_cli.errors import DataError, HrkdError

_MAX_BYTES = 255  # the longest file name on common file systems
# Control characters, the line and paragraph separators, and surrogates, which no encoding has.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def validate_names(
    domains: Iterable[str], labels: Iterable[str], source: object, error: type[HrkdError] = DataError
) -> None:
    """Check that domains can be folder names, that no two of them differ only in case, and that labels are printable.

    Every name that is read from a file or given by a caller passes this check, so that none leads out of a folder.

    Raises:
        HrkdError: a name is not allowed; an ``error``, whose message starts with ``source``.
    """
    by_folded_name: dict[str, str] = {}
    for name in sorted(set(domains)):
        problems = {
            "is empty": not name,
            "contains a slash": "/" in name or "\\" in name,
            "contains a control character": _CONTROL.search(name),
            "starts with a dot": name.startswith("."),
            f"is longer than {_MAX_BYTES} bytes": len(name.encode(errors="replace")) > _MAX_BYTES,
        }
        for problem, applies in problems.items():
            if applies:
                raise error(f"{source}: domain name {name[:80]!r} {problem}; rename it")
        other = by_folded_name.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if other != name:
            raise error(f"{source}: domain names {other!r} and {name!r} differ only in case; rename one")
    for label in labels:
        if _CONTROL.search(label):
            raise error(f"{source}: label {label[:80]!r} contains a control character; rename it")
