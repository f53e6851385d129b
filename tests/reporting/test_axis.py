"""Ticks, and how numbers are written."""

import pytest

from hrkd_cli.reporting.axis import Axis, fit, number, spans_decades


@pytest.mark.parametrize(
    ("axis", "ticks"),
    [
        (Axis(0, 471), [0, 100, 200, 300, 400]),
        (Axis(0, 1), [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (Axis(49, 86), [50, 60, 70, 80]),
        (Axis(-0.3, 0.3), [-0.2, 0, 0.2]),
        (Axis(1, 1000, log=True), [1, 10, 100, 1000]),
        (Axis(12, 17, log=True), [12, 13, 14, 15, 16, 17]),
    ],
)
def test_ticks_are_round_and_inside(axis, ticks):
    assert axis.ticks(5) == pytest.approx(ticks)


def test_shares():
    assert Axis(10, 20).share(15) == 0.5
    assert Axis(1, 100, log=True).share(10) == pytest.approx(0.5)
    assert Axis(1, 100, log=True).share(0) < 0


@pytest.mark.parametrize("values", [[], [0.0], [3.0, 3.0], [-1.0], [1e-9, 2e-9]])
def test_any_values_fit(values):
    axis = fit(values)
    assert axis.low < axis.high
    assert all(0 <= axis.share(value) <= 1 for value in values)
    assert len(axis.ticks(4)) >= 2


def test_no_room_below_zero():
    assert fit([0.0, 10.0]).low == 0.0
    assert fit([-1.0, 10.0]).low < -1.0


def test_a_logarithmic_axis_is_for_positive_values_far_apart():
    assert spans_decades([1.0, 20.0])
    assert not spans_decades([1.0, 19.0])
    assert not spans_decades([0.0, 20.0])
    assert not spans_decades([])


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (471.0, "471"), (12345.0, "12,345"), (0.25, "0.25"), (0.123456, "0.1235"), (5e-5, "5e-5"),
     (0.000105, "1.05e-4"), (2e9, "2e9"), (-0.5, "-0.5")],
)  # fmt: skip
def test_numbers_are_brief(value, text):
    assert number(value) == text
