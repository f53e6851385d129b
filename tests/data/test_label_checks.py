import pytest

from hrkd_cli.data.label_checks import check_single_labels, find_confusing_labels
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
    ("labels", "quoted"),
    [
        (["POSITIVE", "Positive", "bad"], "'POSITIVE', 'Positive'"),
        (["cafe\u0301", "caf\u00e9", "tea"], "'cafe\u0301' (U+0301), 'caf\u00e9' (U+00E9)"),
        (["a", "a\u200b"], "'a', 'a\\u200b' (U+200B)"),
        (["1.5", "1.50", "2"], "'1.5', '1.50'"),
        (["007", "7", "8"], "'007', '7'"),
        (["100000", "1E5", "1e5"], "'100000', '1E5', '1e5'"),
    ],
)
def test_labels_that_look_equal_are_a_warning_with_their_code_points(labels, quoted):
    expected = f"labels that look equal are different classes: {quoted}; make them equal in the source"
    assert find_confusing_labels(labels) == [expected]


def test_many_numbers_as_labels_are_a_warning_with_their_count(tmp_path, read, jsonl):
    numbers = [f"{number / 10}" for number in range(1, 41)]
    rows = [{"text": f"t{number}", "label": number, "domain": "d"} for number in numbers]
    assert read(jsonl(tmp_path / "a.jsonl", rows))[1] == [
        "40 labels, all of them numbers: each is a class of its own, and hrkd does not predict quantities; if they are "
        "quantities, replace them by a few ranges"
    ]
    assert find_confusing_labels([*numbers, "other"]) == []
    assert find_confusing_labels(numbers[:20]) == []
    long = ["1" * 40, "1" * 39 + "2", "1e9999999", "nan", "inf", "0", "00x"]
    assert find_confusing_labels(long) == []
