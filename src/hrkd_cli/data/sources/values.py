"""Conversion of the values in a file to texts, and the names of splits."""

from __future__ import annotations

import math
import re
from decimal import Decimal

from hrkd_cli.data.drop_reasons import DropReason

SURROGATE = re.compile("[\ud800-\udfff]")

SPLIT_ALIASES = {
    "train": "train",
    "training": "train",
    "dev": "dev",
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
    "validation_matched": "dev",
    "dev_matched": "dev",
    "test": "test",
    "testing": "test",
}
"""Split by its name in sources, in lower case."""


class InvalidTextError(Exception):
    """A value cannot be used as text; the argument is a ``DropReason``."""


def to_text(value: object) -> str | None:
    """Return a value as text; None for null and NaN.

    Raises:
        InvalidTextError: it is a list, an object or a date, or not valid Unicode.
    """
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            raise InvalidTextError(DropReason.INVALID_UNICODE) from None
    if isinstance(value, str):
        if not value.isascii() and SURROGATE.search(value):
            raise InvalidTextError(DropReason.INVALID_UNICODE)
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float | Decimal):
        return str(value)
    raise InvalidTextError(DropReason.NOT_TEXT)
