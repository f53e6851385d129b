from datetime import date
from decimal import Decimal

import pytest

from hrkd_cli.data.drop_reasons import DropReason
from hrkd_cli.data.sources.values import InvalidTextError, to_text


@pytest.mark.parametrize(
    ("value", "text"),
    [("a", "a"), (b"\xc3\xbc", "\u00fc"), (1, "1"), (2.5, "2.5"), (Decimal("1.50"), "1.50"), (True, "true")],
)
def test_strings_numbers_and_booleans_are_texts(value, text):
    assert to_text(value) == text


@pytest.mark.parametrize("value", [None, float("nan")])
def test_null_and_nan_are_missing(value):
    assert to_text(value) is None


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (["a"], DropReason.NOT_TEXT),
        ({"a": 1}, DropReason.NOT_TEXT),
        (date(2020, 1, 1), DropReason.NOT_TEXT),
        (b"\xff", DropReason.INVALID_UNICODE),
        ("\ud800", DropReason.INVALID_UNICODE),
    ],
)
def test_other_values_and_invalid_unicode_have_a_drop_reason(value, reason):
    with pytest.raises(InvalidTextError) as error:
        to_text(value)
    assert error.value.args == (reason,)
