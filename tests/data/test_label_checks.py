import pytest

from hrkd_cli.data.label_checks import are_numbers, check_single_labels, group_equal_labels
from hrkd_cli.errors import DataError


@pytest.mark.parametrize(
    "labels",
    [
        ["[0, 1]", "[1, 0]"],
        ["[0 1]", "[1. 0.]"],
        ["['a', 'b']", "c"],
        ["insult", "toxic", "toxic|insult"],
        ["clean", "toxic", "toxic|insult"],
        ["insult|threat", "toxic | insult"],
        ["no", "yes", "yes, no"],
    ],
)
def test_labels_made_of_several_labels_are_an_error(labels):
    with pytest.raises(DataError, match=r"^in: label .* looks like several labels; .*one label per text"):
        check_single_labels(labels, "in")


@pytest.mark.parametrize(
    "labels", [["Food, drinks", "Food, other", "[other]"], ["books|crime", "books|poetry"], ["N/A", "(none)"]]
)
def test_single_labels_may_contain_separators_and_brackets(labels):
    check_single_labels(labels, "in")


@pytest.mark.parametrize("label", [["a", "b"], {"a": 1.0, "b": 0.0}])
def test_a_list_or_object_as_label_is_an_error_with_its_line(tmp_path, read, jsonl, label):
    rows = [{"text": "s", "label": "a", "domain": "d"}, {"text": "t", "label": label, "domain": "d"}]
    with pytest.raises(DataError, match=r"a.jsonl:2: a list or object as label .in 1 row.; .*one label per text"):
        read(jsonl(tmp_path / "a.jsonl", rows))


@pytest.mark.parametrize(
    ("labels", "equal"),
    [
        (["POSITIVE", "Positive", "bad"], [["POSITIVE", "Positive"]]),
        (["cafe\u0301", "caf\u00e9", "tea"], [["cafe\u0301", "caf\u00e9"]]),
        (["a", "a\u200b"], [["a", "a\u200b"]]),
        (["1.5", "1.50", "2"], [["1.5", "1.50"]]),
        (["007", "7", "8", "x", "X"], [["007", "7"], ["x", "X"]]),
        (["100000", "1E5", "1e5"], [["100000", "1E5", "1e5"]]),
        (["1" * 40, "1" * 39 + "2", "1e9999999", "nan", "inf", "0", "00x"], []),
    ],
)
def test_labels_that_look_equal_or_are_the_same_number_are_grouped(labels, equal):
    assert group_equal_labels(labels) == equal


def test_infinite_and_other_labels_are_not_numbers():
    assert are_numbers(["1", "-2.5", "1e3"])
    assert not any(are_numbers(["1", other]) for other in ("nan", "inf", "00x", "one"))
