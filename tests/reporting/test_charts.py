"""Charts: well-formed SVG in the page's colors, every line where it belongs; smoothing."""

import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest

from hrkd_cli.reporting.charts import COLORS, NEUTRAL, Chart, Line, number, smooth, smoothing_window, spans_decades
from made_runs import wave


def series(values, first=1):
    return np.arange(first, first + len(values), dtype=float), np.array(values, dtype=float)


def line_of(values, style=0, *, first=1, faint=None):
    return Line("a", *series(values, first), style, faint)


def svg(*lines, key="a", **more):
    return Chart("title", "step", "loss", lines, **more).svg(key)


def drawn(text):
    return ElementTree.fromstring(text.replace("xlink:href", "href"))


def paths(text, color):
    """Points of the lines of a color."""
    found = [path for path in drawn(text).iter("path") if f"stroke: var(--{color})" in path.get("style")]
    numbers = [path.get("d").replace("M", "").split("L") for path in found if "fill: none" in path.get("style")]
    return [[tuple(map(float, point.split())) for point in points] for points in numbers]


def test_points_lie_where_the_axes_say():
    text = svg(line_of([0, 4, 2], first=0), limits=(0, 4))
    # 400 wide, less 54 and 20; 240 high, less 28 and 36.
    assert paths(text, "c0") == [[(54, 204), (217, 28), (380, 116)]]


def test_names_are_escaped():
    text = svg(line_of([1, 2]), moment=(1.0, '"<b>&'))
    assert [element.text for element in drawn(text).iter("text") if "b" in element.text] == ['"<b>&']


def test_values_before_smoothing_are_faint_and_do_not_widen_the_axis():
    line = line_of([1.0, 2.0], faint=series([-5e9, 9e9]))
    text = svg(line)
    assert "stroke-opacity: 0.2" in text
    assert "clip-path" in text
    assert all(0 <= float(label) <= 2 for label in labels(text) if label not in ("step", "loss"))


def labels(text):
    return [element.text for element in drawn(text).iter("text")]


def test_a_peak_among_very_many_values_is_drawn():
    values = wave(20_000)
    values[7777] = 40.0
    text = svg(line_of(values))
    assert len(text) < 60_000
    assert min(y for _, y in paths(text, "c0")[0]) < 60


def test_a_lone_point_and_points_of_dotted_lines_are_marked():
    lone, two = line_of([1.0]), line_of([1.0, 2.0])
    for line, dots, count in ((lone, False, 1), (two, False, 0), (two, True, 2)):
        marks = [use for use in drawn(svg(line, dots=dots)).iter("use") if "--card" in use.get("style")]
        assert len(marks) == count


def test_nothing_to_draw_is_an_empty_picture():
    assert paths(svg(line_of([])), "c0") in ([], [[]])


def test_the_same_chart_is_the_same_text_and_charts_share_no_ids():
    line = line_of([1.0, 2.0])
    assert svg(line) == svg(line)
    one, two = ({e.get("id") for e in drawn(svg(line, key=key)).iter() if e.get("id")} for key in "ab")
    assert one
    assert two
    assert not one & two


def test_the_style_sheet_has_the_only_colors():
    line = line_of([1.0, 2.0], NEUTRAL, faint=series([1.0, 2.0]))
    text = svg(line, dots=True, level=1.5, moment=(1.0, "best"))
    assert "#0" not in text.replace("href=", "").replace('"#m', "").replace("url(#", "")
    assert all(f"var(--{name})" in text for name in ("text", "soft", "grid", "card"))


def test_lines_differ_in_color_or_dash():
    lines = [line_of([], style) for style in (NEUTRAL, *range(4 * len(COLORS)))]
    assert len({(line.color, line.dash) for line in lines}) == len(lines)


def test_a_logarithmic_axis_is_for_positive_values_far_apart():
    assert spans_decades(np.array([1.0, 20.0]))
    for values in ([1.0, 19.0], [0.0, 20.0], []):
        assert not spans_decades(np.array(values))
    text = svg(line_of([1.0, 1000.0]), log=True)
    assert {"1", "10", "100", "1,000", "loss, log scale"} <= set(labels(text))


def test_drawing_changes_no_setting_of_matplotlib():
    code = (
        "import matplotlib; before = dict(dict.items(matplotlib.rcParams))\n"
        "from hrkd_cli.reporting.charts import Chart, Line; import numpy as np, sys\n"
        "Chart('t', 'x', 'y', [Line('a', np.array([1.0]), np.array([1.0]))]).svg('k')\n"
        "assert dict(dict.items(matplotlib.rcParams)) == before and 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_smoothing_is_a_centered_mean_cut_at_the_ends():
    found = smooth("a", *series([0.0, 3.0] * 20), 0, 0.02)
    assert smoothing_window(40, 0.02) == 5
    assert smoothing_window(40, 0.0) == 1
    assert list(found.y[:3]) == pytest.approx([1.0, 1.5, 1.2])
    assert list(found.y[-1:]) == pytest.approx([2.0])
    assert list(found.faint[1]) == [0.0, 3.0] * 20


def test_smoothing_gives_few_points_the_first_and_the_last_among_them():
    found = smooth("a", *series(wave(1000)), 0, 0.02)
    assert len(found.x) == 200
    assert (found.x[0], found.x[-1]) == (1.0, 1000.0)


@pytest.mark.parametrize(("steps", "width"), [(29, 1), (30, 5), (1000, 21), (10_000, 201)])
def test_short_runs_are_not_smoothed_and_windows_are_odd(steps, width):
    assert smoothing_window(steps, 0.02) == width
    assert (smooth("a", *series(wave(steps)), 0, 0.02).faint is None) == (width == 1)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (471.0, "471"), (12345.0, "12,345"), (0.25, "0.25"), (0.123456, "0.1235"), (5e-5, "5e-05"),
     (-0.5, "-0.5")],
)  # fmt: skip
def test_numbers_are_brief(value, text):
    assert number(value) == text
