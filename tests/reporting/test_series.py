"""Thinning and smoothing."""

import math

import pytest
from made_runs import wave

from hrkd_cli.reporting.series import Series, bin_means, places, smooth, thin, usual_range, window


def series(values):
    found = Series()
    for step, value in enumerate(values, start=1):
        found.add(step, value)
    return found


def test_values_that_are_not_finite_leave_a_gap():
    found = series([1.0, math.inf, 3.0, math.nan])
    assert found.points() == [(1.0, 1.0), (3.0, 3.0)]


def test_thinning_keeps_the_peaks_and_the_order():
    values = wave(1000)
    values[333], values[777] = 40.0, -40.0
    found = thin(series(values), 100)
    assert len(found) <= 100
    assert (334.0, 40.0) in found
    assert (778.0, -40.0) in found
    assert [x for x, _ in found] == sorted(x for x, _ in found)


def test_few_values_are_not_thinned():
    assert thin(series([1.0, 2.0]), 600) == [(1.0, 1.0), (2.0, 2.0)]


def test_smoothing_is_a_centred_mean_cut_at_the_ends():
    found = smooth(series([0.0, 3.0, 6.0, 0.0]), 10, 3)
    assert found == [(1.0, 1.5), (2.0, 3.0), (3.0, 3.0), (4.0, 3.0)]


def test_smoothing_gives_no_more_points_than_asked_for_first_and_last_among_them():
    found = smooth(series(wave(1000)), 50, 5)
    assert len(found) == 50
    assert (found[0][0], found[-1][0]) == (1.0, 1000.0)


@pytest.mark.parametrize(("steps", "width"), [(29, 1), (30, 5), (1000, 21), (10_000, 201)])
def test_short_runs_are_not_smoothed_and_windows_are_odd(steps, width):
    assert window(steps) == width


def test_means_of_bins_cover_every_step():
    assert bin_means(series([1.0, 3.0, 5.0, 7.0]), 2) == [(2.0, 2.0), (4.0, 6.0)]
    assert bin_means(series([]), 12) == []
    assert bin_means(series([4.0]), 12) == [(1.0, 4.0)]


def test_the_usual_range_leaves_out_the_farthest():
    points = [(n, 1.0 + n / 1000) for n in range(200)] + [(200, 99.0), (201, -99.0)]
    assert usual_range(points) == [1.001, 1.198]
    assert usual_range([]) == []


def test_places_are_spread_evenly():
    assert list(places(3, 10)) == [0, 1, 2]
    assert list(places(101, 5)) == [0, 25, 50, 75, 100]
