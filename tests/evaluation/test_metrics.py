import math

import numpy as np
import pytest

from hrkd_cli.evaluation.metrics import (
    average_scores,
    is_more_accurate,
    paired_difference,
    score_domain,
    scores_to_json,
    wilson_interval,
)


def scores(truth, predicted, labels=("no", "yes")):
    return score_domain([labels[n] for n in truth], np.array([labels[n] for n in predicted]), labels)


def test_scores_worked_out_by_hand():
    # no: 2 of 3 found, 2 of 3 guesses right. yes: 1 of 2 found, 1 of 2 guesses right.
    found = scores([0, 0, 0, 1, 1], [0, 0, 1, 0, 1])
    assert found.n == 5
    assert found.accuracy == pytest.approx(3 / 5)
    no, yes = found.labels["no"], found.labels["yes"]
    assert (no.precision, no.recall, no.f1, no.support) == (pytest.approx(2 / 3),) * 3 + (3,)
    assert (yes.precision, yes.recall, yes.f1, yes.support) == (0.5, 0.5, 0.5, 2)
    assert found.macro_f1 == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_precision_and_recall_are_not_mixed_up():
    # yes is guessed for everything.
    found = scores([0, 0, 0, 1], [1, 1, 1, 1])
    yes = found.labels["yes"]
    assert (yes.precision, yes.recall) == (0.25, 1.0)
    assert yes.f1 == pytest.approx(2 * 0.25 / 1.25)
    assert found.labels["no"].f1 == 0
    assert found.macro_f1 == pytest.approx(0.4 / 2)


def test_a_label_that_neither_occurs_nor_is_guessed_does_not_count():
    found = scores([0, 1], [0, 1], ("no", "yes", "maybe"))
    assert found.macro_f1 == 1
    assert found.labels["maybe"].support == 0
    # Guessed once, it does.
    assert scores([0, 1], [0, 2], ("no", "yes", "maybe")).macro_f1 == pytest.approx(1 / 3)


def test_wilson_interval_by_hand():
    # 8 of 10: (0.8 + z2/20 +- z sqrt(0.016 + z2/400)) / (1 + z2/10) with z2 = 3.8415
    z2 = 1.959964**2
    half = 1.959964 * math.sqrt(0.016 + z2 / 400)
    low, high = wilson_interval(8, 10)
    assert low == pytest.approx((0.8 + z2 / 20 - half) / (1 + z2 / 10), abs=1e-6) == pytest.approx(0.4902, abs=1e-4)
    assert high == pytest.approx((0.8 + z2 / 20 + half) / (1 + z2 / 10), abs=1e-6) == pytest.approx(0.9433, abs=1e-4)


@pytest.mark.parametrize(("correct", "n"), [(0, 7), (7, 7), (1, 1), (37, 113), (9_999, 10_000), (500_000, 1_000_000)])
def test_wilson_interval_is_the_formula(correct, n):
    z, p = 1.959963984540054, correct / n
    center, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    bounds = [(center + side * half) / (1 + z * z / n) for side in (-1, 1)]
    assert wilson_interval(correct, n) == pytest.approx(bounds, rel=1e-12, abs=1e-12)


def test_interval_stays_between_0_and_1():
    assert 0 <= wilson_interval(0, 7)[0] < 1e-12
    assert 1 - 1e-12 < wilson_interval(7, 7)[1] <= 1
    assert wilson_interval(7, 7)[0] < 1


def test_average_is_unweighted_and_its_interval_narrower():
    large, small = scores([0] * 90 + [1] * 10, [0] * 100), scores([0, 1], [0, 1])
    mean = average_scores({"large": large, "small": small})
    assert mean.accuracy == pytest.approx(0.95)
    assert mean.macro_f1 == pytest.approx((large.macro_f1 + 1) / 2)
    below = math.hypot(large.accuracy - large.interval[0], small.accuracy - small.interval[0]) / 2
    assert mean.interval[0] == pytest.approx(0.95 - below)
    assert average_scores({"large": large}).interval == pytest.approx(large.interval)


def right(*counts):
    """Return two models' answers, given on how many rows both, only the first, only the second and neither is right."""
    pairs = [(True, True), (True, False), (False, True), (False, False)]
    one, other = np.repeat(pairs, counts, axis=0).T
    return one, other


def test_the_interval_of_a_paired_difference_by_hand():
    # Wilson: 8 of 10 (0.490162, 0.943318), 6 of 10 (0.312674, 0.831820).
    # Correlation: (6 x 2 - 2 x 0) / sqrt(8 x 2 x 6 x 4) = 0.612372.
    # Below: 0.309838^2 - 2 x 0.612372 x 0.309838 x 0.231820 + 0.231820^2 = 0.061771 = 0.248537^2.
    # Above: 0.143318^2 - 2 x 0.612372 x 0.143318 x 0.287326 + 0.287326^2 = 0.052663 = 0.229483^2.
    one, other = right(6, 2, 0, 2)
    found = paired_difference({"a": one}, {"a": other})
    assert found.accuracy == pytest.approx(0.2)
    assert found.interval == pytest.approx((0.2 - 0.248537, 0.2 + 0.229483), abs=1e-6)
    swapped = paired_difference({"a": other}, {"a": one})
    assert swapped.interval == pytest.approx((-found.interval[1], -found.interval[0]))


def test_the_average_difference_weights_domains_equally_and_combines_their_intervals():
    domains = {"a": right(6, 2, 0, 2), "b": right(50, 10, 20, 20)}
    one, other = ({name: pair[side] for name, pair in domains.items()} for side in (0, 1))
    found = paired_difference(one, other)
    a, b = (paired_difference({name: one[name]}, {name: other[name]}) for name in domains)
    assert found.accuracy == pytest.approx((0.2 - 0.1) / 2)
    below = math.hypot(a.accuracy - a.interval[0], b.accuracy - b.interval[0]) / 2
    assert found.interval[0] == pytest.approx(found.accuracy - below)


def test_a_paired_interval_is_narrower_than_that_of_independent_answers():
    n = 200
    (one, other), (shuffled, _) = right(150, 10, 5, 35), right(150, 10, 5, 35)
    shuffled = np.random.default_rng(0).permutation(shuffled)
    paired, independent = (paired_difference({"a": own}, {"a": other}) for own in (one, shuffled))
    assert np.ptp(paired.interval) < 0.6 * np.ptp(independent.interval)
    # Near the normal approximation: sqrt(discordant - difference^2 / n) / n.
    assert np.ptp(paired.interval) / 2 == pytest.approx(1.96 * math.sqrt(15 - 5**2 / n) / n, rel=0.1)


@pytest.mark.parametrize("n", [7, 50, 202, 1000])
def test_equal_answers_have_a_narrow_interval_around_zero(n):
    one, _ = right(n // 2, 0, 0, n - n // 2)
    found = paired_difference({"a": one}, {"a": one})
    assert found.accuracy == 0
    assert -0.06 < found.interval[0] <= 0 <= found.interval[1] < 0.06


def test_the_interval_of_models_that_are_always_right_is_that_of_their_accuracies():
    one, other = right(10, 0, 0, 0)
    found = paired_difference({"a": one}, {"a": other})
    assert found.interval == pytest.approx((-(1 - wilson_interval(10, 10)[0]), 1 - wilson_interval(10, 10)[0]))


def test_json_has_the_scores_of_each_label_only_if_requested():
    found = {"books": scores([0, 1], [0, 1])}
    assert set(scores_to_json(found)["domains"]["books"]) == {"n", "accuracy", "macro_f1", "interval"}
    by_label = scores_to_json(found, by_label=True)["domains"]["books"]["labels"]["yes"]
    assert by_label == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 1, "answers": {"yes": 1}}


def test_the_answers_of_each_label_are_its_row_of_the_confusion_matrix():
    found = scores([0, 0, 0, 1, 1], [0, 2, 2, 2, 1], ("no", "yes", "maybe"))
    assert {name: entry.answers for name, entry in found.labels.items()} == {
        "no": {"maybe": 2, "no": 1},
        "yes": {"maybe": 1, "yes": 1},
        "maybe": {},
    }


@pytest.mark.parametrize(
    ("won", "lost", "both", "expected"),
    [(5, 0, 100, True), (4, 0, 100, False), (15, 6, 0, True), (14, 6, 0, False), (6, 15, 0, False), (0, 0, 9, False)],
)
def test_more_accurate_is_a_sign_test_of_rows_on_which_models_differ(won, lost, both, expected):
    """0.5^5 = 0.031 and 0.5^4 = 0.063; of 21 and 20 fair coins, P(15 or more) = 0.039 and P(14 or more) = 0.058."""
    one = np.array([True] * won + [False] * lost + [True] * both)
    other = np.array([False] * won + [True] * lost + [True] * both)
    assert is_more_accurate(one, other) == expected
