"""From the values that files hold to texts, labels and splits."""

from __future__ import annotations

import math
import re
from decimal import Decimal

from hrkd_cli.data.sources.records import Reason

_SURROGATE = re.compile("[\ud800-\udfff]")
_WHOLE_FLOAT = re.compile(r"([+-]?\d+)\.0+")
# What programs write for a value that is not there.
_MISSING = frozenset({"", "nan", "null", "<na>"})

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "dev": "dev",
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
    "validation_matched": "dev",
    "test": "test",
    "testing": "test",
}


class UnusableError(Exception):
    """A row's value cannot be used; internal, turned into a Dropped row."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


def as_text(value: object, empty: Reason | None) -> str:
    """Return a text as it stands.

    Args:
        value: what the file holds.
        empty: the reason to give when there is nothing but white space; None accepts that.

    Raises:
        UnusableError: there is no text.
    """
    if isinstance(value, str):
        text = value
    elif value is None or (isinstance(value, float) and math.isnan(value)):
        text = ""
    elif isinstance(value, bytes):
        text = _decoded(value)
    else:
        text = _scalar(value)
    if not text.isascii() and _SURROGATE.search(text):
        raise UnusableError(Reason.UNICODE)
    if empty is not None and (not text or text.isspace()):
        raise UnusableError(empty)
    return text


def as_name(value: object, missing: Reason) -> str:
    """Return a label's or domain's name: numbers as text, whole floats without their ``.0``.

    Raises:
        UnusableError: the value says that there is none.
    """
    name = as_text(value, missing).strip()
    if name.casefold() in _MISSING:
        raise UnusableError(missing)
    whole = _WHOLE_FLOAT.fullmatch(name)
    return whole[1] if whole else name


def as_split(value: object) -> str | None:
    """Return ``train``, ``dev`` or ``test``; None where the value is blank.

    Raises:
        UnusableError: it is the name of no split.
    """
    name = as_text(value, None).strip().casefold()
    if name in _MISSING:
        return None
    if name not in SPLIT_NAMES:
        raise UnusableError(Reason.SPLIT)
    return SPLIT_NAMES[name]


def _decoded(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise UnusableError(Reason.UNICODE) from None


def _scalar(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float | Decimal):
        return str(value)
    raise UnusableError(Reason.NOT_TEXT)
