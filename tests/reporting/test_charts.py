"""Charts: well-formed SVG with CSS colors, coordinates of the lines, smoothing."""

import math
import subprocess
import sys
from xml.etree import ElementTree

import pandas as pd
import pytest

from fake_runs import wave
from hrkd_cli.reporting.charts import COLORS, DASHES, Chart, format_number


def chart(*columns, first=1, **more):
    """A chart of lines given by their values."""
    data = pd.DataFrame({f"line {n}": values for n, values in enumerate(columns)})
    return Chart("title", "step", "loss", data.set_index(data.index + first), **more)


def svg(*columns, key="a", **more):
    return chart(*columns, **more).svg(key)


def drawn(text):
    return ElementTree.fromstring(text.replace("xlink:href", "href"))


def paths(text, color):
    """Points of the lines of a color."""
    found = [path for path in drawn(text).iter("path") if f"stroke: var(--{color})" in path.get("style")]
    numbers = [path.get("d").replace("M", "").split("L") for path in found if "fill: none" in path.get("style")]
    return [[tuple(map(float, point.split())) for point in points] for points in numbers]


def test_points_are_drawn_at_their_coordinates():
    text = svg([0, 4, 2], first=0, limits=(0, 4))
    # 400 wide, less 54 and 20; 240 high, less 28 and 36.
    assert paths(text, "c0") == [[(54, 204), (217, 28), (380, 116)]]


def test_missing_values_are_skipped():
    text = svg([0, math.nan, 2], [4, 4, 4], first=0, limits=(0, 4))
    assert paths(text, "c0") == [[(54, 204), (380, 116)]]


def test_labels_are_escaped():
    text = svg([1, 2], vertical=(1.0, '"<b>&'))
    assert [element.text for element in drawn(text).iter("text") if "b" in element.text] == ['"<b>&']


def test_original_values_are_drawn_faintly_and_do_not_widen_the_axis():
    text = svg([0.0, 3e9, -3e9, 3.0] * 10, window=41)
    assert "stroke-opacity: 0.2" in text
    assert "clip-path" in text
    numbers = [float(label.replace(",", "")) for label in labels(text) if label not in ("step", "loss")]
    assert all(abs(number) < 1e9 for number in numbers)


def labels(text):
    return [element.text for element in drawn(text).iter("text")]


def test_a_peak_in_a_long_line_is_drawn():
    values = wave(20_000)
    values[7777] = 40.0
    text = svg(values)
    assert len(text) < 60_000
    assert min(y for _, y in paths(text, "c0")[0]) < 60


@pytest.mark.parametrize(
    ("values", "dots", "count"), [([1.0], False, 1), ([1.0, 2.0], False, 0), ([1.0, 2.0], True, 2)]
)
def test_a_single_point_and_dots_are_marked(values, dots, count):
    marks = [use for use in drawn(svg(values, dots=dots)).iter("use") if "--card" in use.get("style")]
    assert len(marks) == count


def test_an_empty_line_draws_nothing():
    assert paths(svg([]), "c0") in ([], [[]])


def test_svg_is_deterministic_and_charts_share_no_ids():
    assert svg([1.0, 2.0]) == svg([1.0, 2.0])
    one, two = ({e.get("id") for e in drawn(svg([1.0, 2.0], key=key)).iter() if e.get("id")} for key in "ab")
    assert one
    assert two
    assert not one & two


def test_all_colors_are_css_variables():
    text = svg([1.0, 2.0], mean=True, window=3, dots=True, horizontal=1.5, vertical=(1.0, "best"))
    assert "#0" not in text.replace("href=", "").replace('"#m', "").replace("url(#", "")
    assert all(f"var(--{name})" in text for name in ("text", "soft", "grid", "card"))


def test_lines_differ_in_color_or_dash_and_the_mean_has_the_text_color():
    lines = chart(*[[]] * (len(COLORS) * len(DASHES) + 1), mean=True).lines
    assert len({(line.color, line.dash) for line in lines}) == len(lines)
    assert [line.color for line in lines if line.color not in COLORS] == [lines[-1].color] == ["text"]


@pytest.mark.parametrize(
    ("values", "log"), [([1.0, 20.0], True), ([1.0, 1000.0], True), ([1.0, 19.0], False), ([0.0, 20.0], False)]
)
def test_the_axis_is_logarithmic_for_positive_values_over_a_large_range(values, log):
    found = labels(svg(values, may_be_log=True))
    assert ("loss, log scale" in found) is log
    if values[-1] == 1000:
        assert {"1", "10", "100", "1,000"} <= set(found)


def test_a_logarithmic_x_axis_has_a_label_at_each_value():
    data = pd.DataFrame({"ms": [1.0, 2.0, 4.0]}, [16, 64, 256])
    text = Chart("title", "tokens", "ms", data, x_log=True, limits=(0, 4)).svg("a")
    assert [x for x, _ in paths(text, "c0")[0]] == [54, 217, 380]
    assert labels(text)[:4] == ["16", "64", "256", "tokens, log scale"]


def test_the_diagonal_is_where_y_equals_x():
    text = svg([0, 4], first=0, limits=(0, 1), x_end=1, diagonal=True)
    assert [(54, 204), (380, 28)] in paths(text, "soft")


def test_drawing_does_not_change_matplotlib_settings():
    code = (
        "import matplotlib; before = dict(dict.items(matplotlib.rcParams))\n"
        "from hrkd_cli.reporting.charts import Chart; import pandas, sys\n"
        "Chart('t', 'x', 'y', pandas.DataFrame({'a': [1.0]})).svg('k')\n"
        "assert dict(dict.items(matplotlib.rcParams)) == before and 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_smoothing_is_a_centered_moving_average():
    found = chart([0.0, 3.0] * 20, window=5).smooth["line 0"].tolist()
    assert found[:3] == pytest.approx([1.0, 1.5, 1.2])
    assert found[-1] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (471.0, "471"), (12345.0, "12,345"), (0.25, "0.25"), (0.123456, "0.1235"), (5e-5, "5e-05"),
     (-0.5, "-0.5")],
)  # fmt: skip
def test_numbers_have_four_significant_digits_or_separators(value, text):
    assert format_number(value) == text
