from dataclasses import replace

import numpy as np
import pytest

from hrkd_cli.data.dataset import TextRows
from hrkd_cli.evaluation.reliability import (
    Answers,
    calibration_error,
    describe_cascade,
    describe_confidence,
    find_suspects,
    judge,
    judge_without_domain,
    reliability,
    risk_coverage,
)
from hrkd_cli.predict.calibration import Calibration
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.predict.model_spec import ModelSpec

HEADS = DomainHeads.build({"books": ["bad", "good"], "dvd": ["bad", "good"]})
SPEC = ModelSpec({"id2label": {}, "hrkd": {"domain_posterior": True}}, HEADS, 24, pair=False)
# p(good) is 0.8 and 0.6 in books; p(bad) is 0.9 in dvd.
LOGITS = {
    "books": np.log(np.array([[0.2, 0.8, 0.1, 0.1], [0.4, 0.6, 0.1, 0.1]])),
    "dvd": np.log(np.array([[0.1, 0.1, 0.9, 0.1]])),
}
LABELS = {"books": ["good", "bad"], "dvd": ["bad"]}
ROWS = {
    "books": TextRows(["a", "b" * 300], None, LABELS["books"]),
    "dvd": TextRows(["c"], None, LABELS["dvd"]),
}


def answers(confidences, correct):
    return Answers(np.array(confidences), np.array(correct, dtype=bool), np.array([]), {})


def confidence(calibration, *, find_domains=False):
    calibrated = {domain: calibration.apply(own, HEADS) for domain, own in LOGITS.items()}
    after, before = (
        judge_without_domain(logits, LABELS, SPEC) if find_domains else judge(logits, LABELS, HEADS)
        for logits in (calibrated, LOGITS)
    )
    return describe_confidence(after, before, calibration.thresholds.get("auto" if find_domains else "given", ()))


def test_the_brier_score_is_the_squared_distance_to_the_truth():
    judged = judge(LOGITS, LABELS, HEADS)
    assert judged.correct.tolist() == [True, False, True]
    np.testing.assert_allclose(judged.confidences, [0.8, 0.6, 0.9])
    np.testing.assert_allclose(judged.brier, [0.2**2 + 0.2**2, 0.6**2 + 0.6**2, 0.1**2 + 0.1**2])


def test_calibration_error_by_hand():
    # Bins of width 1/15: 0.61 and 0.65 share one, 0.95 and 1.0 another.
    error = calibration_error(answers([0.61, 0.65, 0.95, 1.0], [1, 0, 1, 1]))
    assert error == pytest.approx((abs(0.61 + 0.65 - 1) + abs(0.95 + 1.0 - 2)) / 4)
    assert calibration_error(answers([1.0, 1.0], [1, 1])) == 0


def test_reliability_by_hand():
    assert reliability(answers([0.61, 0.65, 0.95, 1.0], [1, 0, 1, 1])) == [
        {"confidence": pytest.approx(0.63), "accuracy": 0.5, "n": 2},
        {"confidence": pytest.approx(0.975), "accuracy": 1.0, "n": 2},
    ]


def test_risk_coverage_by_hand():
    assert risk_coverage(answers([0.6, 0.9, 0.8], [0, 1, 0])) == [
        {"coverage": pytest.approx(1 / 3), "accuracy": 1.0, "threshold": 0.9},
        {"coverage": pytest.approx(2 / 3), "accuracy": 0.5, "threshold": 0.8},
        {"coverage": 1.0, "accuracy": pytest.approx(1 / 3), "threshold": 0.6},
    ]
    assert len(risk_coverage(answers(np.linspace(0, 1, 1234), np.ones(1234)))) == 100


def test_a_cascade_by_hand():
    first = answers([0.9, 0.6, 0.8, 0.55], [1, 0, 1, 0])
    larger = answers([0.9, 0.9, 0.9, 0.9], [1, 1, 0, 0])
    cascade = describe_cascade(first, larger, milliseconds=(2.0, 10.0))
    assert cascade["fallback_accuracy"] == 0.5
    assert cascade["equal_at"] == 0.55  # nothing is sent on, and two of four are right
    by_threshold = {step["threshold"]: step for step in cascade["steps"]}
    assert by_threshold[0.55] == {"threshold": 0.55, "sent": 0.0, "accuracy": 0.5, "latency_ms": 2.0}
    assert by_threshold[0.6] == {"threshold": 0.6, "sent": 0.25, "accuracy": 0.5, "latency_ms": 4.5}
    assert by_threshold[0.8] == {"threshold": 0.8, "sent": 0.5, "accuracy": 0.75, "latency_ms": 7.0}
    assert by_threshold[0.9] == {"threshold": 0.9, "sent": 0.75, "accuracy": 0.5, "latency_ms": 9.5}
    better = describe_cascade(first, answers([0.9] * 4, [1, 1, 1, 0]))
    assert better["equal_at"] == 0.8
    assert "latency_ms" not in better["steps"][0]
    assert describe_cascade(answers([0.9, 0.8], [0, 0]), answers([0.9, 0.8], [1, 1]))["equal_at"] is None


def test_a_threshold_is_as_short_as_possible_and_sends_the_same_texts():
    confidences = [0.998712345, 0.998, 0.9987100, 0.5]
    steps = describe_cascade(answers(confidences, [1, 1, 1, 1]), answers([1] * 4, [1] * 4))["steps"]
    assert {step["threshold"]: step["sent"] for step in steps} == {0.5: 0, 0.998: 0.25, 0.9987: 0.5, 0.998712: 0.75}


def test_without_a_domain_the_answer_is_that_of_predict():
    judged = judge_without_domain(LOGITS, LABELS, SPEC)
    # p(label) is summed over domains: (0.8 + 0.1) / 1.2, (0.6 + 0.1) / 1.2, (0.1 + 0.9) / 1.2.
    np.testing.assert_allclose(judged.confidences, [0.75, 0.7 / 1.2, 1 / 1.2])
    assert judged.correct.tolist() == [True, False, True]


def test_the_coverage_of_a_target_counts_the_rows_above_its_threshold():
    promises = [
        {"threshold": 0.7, "lower_bound": 0.92, "coverage": 0.5, "accuracy": 0.95},
        {"threshold": 0.85, "lower_bound": 0.96, "coverage": 0.3, "accuracy": 0.99},
    ]
    calibration = Calibration(40, {}, 1.0, {"given": promises, "auto": []})
    entry = confidence(calibration)
    assert entry["coverage"] == [
        {"target": 90, "threshold": 0.7, "coverage": pytest.approx(2 / 3), "accuracy": 1.0},
        {"target": 95, "threshold": 0.85, "coverage": pytest.approx(1 / 3), "accuracy": 1.0},
        *({"target": t, "threshold": None, "coverage": None, "accuracy": None} for t in (98, 99)),
    ]
    assert entry["uncalibrated"]["brier"] == pytest.approx(entry["brier"]) == pytest.approx((0.08 + 0.72 + 0.02) / 3)
    found = confidence(calibration, find_domains=True)
    assert [row["threshold"] for row in found["coverage"]] == [None] * 4
    assert "brier" not in found
    assert "coverage" not in describe_confidence(judge(LOGITS, LABELS, HEADS), None, ())


def test_temperatures_change_the_errors_after_calibration_only():
    calibration = Calibration(40, {"books": 2.0}, 1.0, {})
    before = describe_confidence(judge(LOGITS, LABELS, HEADS), None, ())
    after = confidence(calibration)
    assert after["uncalibrated"] == {"ece": before["ece"], "brier": before["brier"]}
    # At temperature 2, p(good) is 2/3 and sqrt(0.6) / (sqrt(0.4) + sqrt(0.6)).
    second = 0.6**0.5 / (0.4**0.5 + 0.6**0.5)
    assert after["brier"] == pytest.approx((2 / 9 + 2 * second**2 + 0.02) / 3)


def test_suspects_are_the_rows_that_the_surest_answers_contradict():
    suspect = {"domain": "books", "row": 2, "text": "b" * 200, "label": "bad", "answer": "good"}
    assert find_suspects(LOGITS, ROWS, HEADS) == [suspect | {"probability": pytest.approx(0.6)}]
    wrong = {domain: TextRows(part.texts, None, ["worse"] * len(part)) for domain, part in ROWS.items()}
    found = find_suspects(LOGITS, wrong, HEADS)
    assert [(s["domain"], s["row"]) for s in found] == [("dvd", 1), ("books", 1), ("books", 2)]
    located = {d: replace(part, locations=[f"{d}.csv:{n}" for n in range(len(part))]) for d, part in ROWS.items()}
    assert [found["location"] for found in find_suspects(LOGITS, located, HEADS)] == ["books.csv:1"]
    many = {"books": TextRows(["a"] * 50, None, ["bad"] * 50)}
    assert len(find_suspects({"books": np.repeat(LOGITS["books"][:1], 50, axis=0)}, many, HEADS)) == 20
