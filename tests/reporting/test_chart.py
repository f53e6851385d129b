"""The picture of a chart: well-formed, described in words, every line drawn where it belongs."""

from xml.etree import ElementTree

from hrkd_cli.reporting.axis import Axis
from hrkd_cli.reporting.chart import COLOURS, NEUTRAL, WIDTH, Chart, Line, dash, draw, tone


def picture(*lines, **more):
    chart = Chart("A <title>", "step", "loss & more", lines, **more)
    return ElementTree.fromstring(draw(chart, "one"))


def lines_of(root):
    return [element for element in root.iter("polyline") if "line" in element.get("class")]


def test_names_are_escaped_and_the_picture_has_title_and_description():
    root = picture(Line('"<b>&', [(0, 1.0), (10, 3.0)]), level=(2.0, "1/2"), moment=(10.0, "best"))
    assert root.get("aria-labelledby") == "one-t one-d"
    assert root.find("title").text == "A <title>"
    assert root.find("desc").text == (
        'loss & more by step. "<b>&: from 1 to 3, least 1, greatest 3; 1/2 at 2; best at 10.'
    )


def test_points_lie_where_the_axes_say():
    root = picture(Line("a", [(0, 0.0), (10, 4.0)]), x_axis=Axis(0, 10), y_axis=Axis(0, 4), height=200)
    assert lines_of(root)[0].get("points") == "54.0,164.0 388.0,28.0"


def test_values_before_smoothing_lie_behind_and_are_cut_off_at_the_edge():
    root = picture(Line("a", [(0, 1.0), (9, 2.0)], faint=[(0, -5e9), (9, 9e9)]), y_axis=Axis(1, 2))
    clipped = root.find("g")
    assert clipped.get("clip-path") == f"url(#{root.find('clipPath').get('id')})"
    assert "faint" in clipped.find("polyline").get("class")
    assert all(len(number) < 8 for number in clipped.find("polyline").get("points").replace(",", " ").split())


def test_dots_tell_their_value():
    root = picture(Line("books", [(5, 71.25)], dots=True))
    assert root.find("circle/title").text == "books: 71.25 (step 5)"


def test_a_lone_point_is_a_dot():
    assert len(list(picture(Line("a", [(1, 1.0)])).iter("circle"))) == 1


def test_nothing_to_draw_is_an_empty_picture():
    assert lines_of(picture(Line("a", [])))[0].get("points") == ""


def test_labels_stay_inside():
    root = picture(Line("a", [(0, 1.0), (50_000, 2.0)]), moment=(50_000.0, "best: step 50,000"))
    for text in root.iter("text"):
        half = len(text.text) * 7
        left = {"start": 0, "middle": half / 2, "end": half}[text.get("text-anchor")]
        assert float(text.get("x")) - left + half <= WIDTH + 3, text.text


def test_lines_differ_in_colour_or_dash():
    looks = [(tone(index), dash(index)) for index in (NEUTRAL, *range(4 * COLOURS))]
    assert len(set(looks)) == len(looks)
