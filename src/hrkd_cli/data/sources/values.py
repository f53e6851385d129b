"""From the values that files hold to texts; names of splits; why a row cannot be used."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from enum import StrEnum

_SURROGATE = re.compile("[\ud800-\udfff]")

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


class Reason(StrEnum):
    """Why a row is not in the dataset: keys of ``dropped`` in results, but for the last two, which users ask for."""

    FIELDS = "wrong number of fields"
    NOT_TEXT = "not text"
    UNICODE = "not valid Unicode"
    NO_TEXT = "empty text"
    NO_PAIR = "empty second text"
    NO_LABEL = "no label"
    NO_DOMAIN = "no domain"
    SPLIT = "unknown split"
    IN_TEST = "text also in test"
    IN_DEV = "text also in dev"
    DUPLICATE = "duplicate"
    CONFLICT = "duplicate with another label"
    UNWANTED = "other domain"
    NOT_OF_THE_FEW = "few-shot"


class UnusableError(Exception):
    """A value that is no text, with the Reason as its argument."""


def as_text(value: object) -> str | None:
    """Return a value as text; None for null and NaN.

    Raises:
        UnusableError: it is a list, an object, a date, or not valid Unicode.
    """
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            raise UnusableError(Reason.UNICODE) from None
    if isinstance(value, str):
        if not value.isascii() and _SURROGATE.search(value):
            raise UnusableError(Reason.UNICODE)
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float | Decimal):
        return str(value)
    raise UnusableError(Reason.NOT_TEXT)
