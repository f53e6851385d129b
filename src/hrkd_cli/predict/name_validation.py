"""Which domain and label names are allowed: they become folder names and ``DOMAIN/LABEL`` pairs in model files."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from hrkd_cli.errors import DataError, HrkdError

_FILLERS = "\u115f\u1160\u2800"  # blank characters that Unicode counts as letters or symbols
_MAX_BYTES = 255  # the longest file name on common file systems
# Control characters, the line and paragraph separators, and surrogates, which no encoding has.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def validate_names(
    domains: Iterable[str], labels: Iterable[str], source: object, error: type[HrkdError] = DataError
) -> None:
    """Check that domains can be folder names, that no two of them look equal, and that labels are printable.

    Every name that is read from a file or given by a caller passes this check, so that none leads out of a folder.

    Raises:
        HrkdError: a name is not allowed; an ``error``, whose message starts with ``source``.
    """
    names = sorted(set(domains))
    wrong = {name: problem for name in names if (problem := _find_problem(name))}
    if wrong:
        name, problem = next(iter(wrong.items()))
        others = [repr(other[:80]) for other in wrong if other != name and wrong[other] == problem]
        also = f" (also {', '.join(others)})" if others else ""
        raise error(f"{source}: domain name {name[:80]!r} {problem}{also}; rename {'them' if also else 'it'}")
    by_appearance: dict[str, str] = {}
    for name in names:
        other = by_appearance.setdefault(appearance(name), name)
        if other != name:
            one, two = (unicodedata.normalize("NFC", each) for each in (other, name))
            problem = "differ only in case" if one != two and one.casefold() == two.casefold() else "look equal"
            raise error(f"{source}: domain names {quote(other)} and {quote(name)} {problem}; rename one")
    for label in labels:
        if _CONTROL.search(label):
            raise error(f"{source}: label {label[:80]!r} contains a control character; rename it")
        if not appearance(label):
            raise error(f"{source}: label {label[:80]!r} has no visible character{_code_points(label)}; rename it")


def _find_problem(domain: str) -> str | None:
    """Return why a domain cannot have this name; None if it can."""
    problems = {
        "is empty": not domain,
        "contains a slash": "/" in domain or "\\" in domain,
        "contains a control character": _CONTROL.search(domain),
        f"has no visible character{_code_points(domain)}": not appearance(domain),
        "starts with a dot": domain.startswith("."),
        f"is longer than {_MAX_BYTES} bytes": len(domain.encode(errors="replace")) > _MAX_BYTES,
    }
    return next((problem for problem, applies in problems.items() if applies), None)


def appearance(name: str) -> str:
    """Return a name without differences that are hard to see: case, accents in one or two characters, spaces."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    visible = (char for char in folded if unicodedata.category(char) != "Cf" and char not in _FILLERS)
    return " ".join("".join(visible).split())


def quote(name: str) -> str:
    """Return a name in quotes, with the code points of its characters outside ASCII."""
    return f"{name!r}{_code_points(name)}"


def _code_points(name: str) -> str:
    points = " ".join(f"U+{ord(char):04X}" for char in name[:80] if not char.isascii())
    return f" ({points})" if points else ""
