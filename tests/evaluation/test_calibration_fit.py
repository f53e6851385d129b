import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from scipy.stats import binom

from hrkd_cli.evaluation.calibration_fit import find_promises, fit_calibration, fit_temperature
from hrkd_cli.predict.calibration import Calibration
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.predict.model_spec import ModelSpec

HEADS = DomainHeads.build({"books": ["bad", "good"], "dvd": ["bad", "good"]})
SPEC = ModelSpec({"id2label": {}, "hrkd": {}}, HEADS, 24, pair=False)


def margins(margin, right, wrong):
    """Return logits of two labels that differ by a margin, and the true labels."""
    return np.tile([0.0, margin], (right + wrong, 1)), np.array([1] * right + [0] * wrong)


def test_a_temperature_by_hand():
    # p(right) = 1 / (1 + exp(-2 / T)) must be 3/4, so T = 2 / ln 3. With many rows, the prior does not count.
    assert fit_temperature([margins(2.0, 30_000, 10_000)]) == pytest.approx(2 / np.log(3), abs=1e-3)


def test_a_temperature_is_the_one_of_another_optimizer():
    random = np.random.default_rng(1)
    rows = []
    for count in (40, 25):
        logits = random.normal(size=(count, 5)) * 3
        rows.append((logits, np.array([random.choice(5, p=softmax(row / 1.7)) for row in logits])))

    def loss(log_temperature):
        likelihood = sum(log_softmax(x / np.exp(log_temperature), axis=1)[range(len(t)), t].sum() for x, t in rows)
        return -likelihood + (log_temperature - np.log(1.2)) ** 2 / (2 * 0.5**2)

    expected = np.exp(minimize(loss, x0=[0.0], method="Nelder-Mead", options={"xatol": 1e-8}).x[0])
    assert fit_temperature(rows, around=1.2, deviation=0.5) == pytest.approx(expected, abs=2e-4)


def test_few_rows_perfect_rows_and_wrong_rows_give_sensible_temperatures():
    perfect, wrong = fit_temperature([margins(4.0, 200, 0)]), fit_temperature([margins(4.0, 0, 200)])
    assert 0.2 < perfect < 1 < wrong < 60
    # Two rows hardly move a domain's temperature away from that of all domains.
    assert fit_temperature([margins(2.0, 2, 0)], around=1.5, deviation=0.5) == pytest.approx(1.5, rel=0.15)


def test_each_domain_has_a_temperature_and_one_without_rows_that_of_all():
    own, targets = margins(2.0, 3000, 1000)
    logits = {"books": np.hstack([own, np.zeros_like(own)]).astype(np.float32)}
    labels = {"books": [HEADS.labels["books"][t] for t in targets]}
    entry = fit_calibration(logits, labels, HEADS, SPEC)
    assert entry["rows"] == 4000
    assert entry["temperatures"]["books"] == pytest.approx(2 / np.log(3), abs=0.01)
    assert entry["temperatures"]["dvd"] == fit_temperature([(own, targets)])


def test_a_classifier_with_plain_labels_has_one_temperature():
    plain = ModelSpec({"id2label": {"0": "good", "1": "bad"}}, None, 24, pair=None)
    heads = DomainHeads.match_labels(plain.config, {"books": ["bad", "good"], "dvd": ["bad"]}, "m", keep_extra=True)
    own, targets = margins(2.0, 30, 10)
    labels = ["bad" if t else "good" for t in targets]
    both = fit_calibration({"books": own, "dvd": own}, {"books": labels, "dvd": labels}, heads, plain)
    assert list(both["temperatures"]) == list(plain.all_heads.domains)
    assert list(both["temperatures"].values()) == [fit_temperature([(own, targets)] * 2)]


def test_the_softmax_over_domains_has_a_temperature_if_the_model_finds_domains():
    # The logarithms of the sums of exponentials are 1 higher in the right domain for 3 of 4 texts.
    spec = ModelSpec({"id2label": {}, "hrkd": {"domain_posterior": True}}, HEADS, 24, pair=False)
    books, dvd = np.array([[9.0, 1, 8, 1]] * 4000), np.array([[9.0, 1, 8, 1]] * 1000 + [[8.0, 1, 9, 1]] * 3000)
    books[3000:] = books[3000:, [2, 3, 0, 1]]
    logits = {"books": books, "dvd": dvd}
    labels = {domain: ["bad"] * 4000 for domain in logits}
    entry = fit_calibration(logits, labels, HEADS, spec)
    assert entry["domain_temperature"] == pytest.approx(1 / np.log(3), rel=2e-3)
    assert fit_calibration(logits, labels, HEADS, SPEC)["domain_temperature"] == 1
    # Domains with the same labels: the label is right even if the domain is not.
    assert entry["thresholds"]["auto"][0]["accuracy"] == 1
    # Domains with different labels: it is not.
    heads = DomainHeads.build({"books": ["bad", "good"], "dvd": ["bad", "dull"]})
    entry = fit_calibration(logits, labels, heads, ModelSpec(spec.config, heads, 24, pair=False))
    assert entry["thresholds"]["auto"][0]["accuracy"] == 0.75
    assert "auto" not in fit_calibration(logits, labels, heads, ModelSpec(SPEC.config, heads, 24, False))["thresholds"]


def test_promises_by_hand():
    # All 100 rows are right. The row of the threshold does not count: the bound p satisfies p^99 = 0.025.
    [entry] = find_promises(np.linspace(0.99, 0.5, 100), np.ones(100, dtype=bool))
    assert entry == {"threshold": 0.5, "lower_bound": 0.9634, "coverage": 1.0, "accuracy": 1.0}
    assert pytest.approx(0.96342, abs=1e-5) == 0.025 ** (1 / 99)
    # The last 10 rows are wrong. At the threshold of row 98, 90 of 97 are right.
    entries = find_promises(np.linspace(0.99, 0.5, 100), np.arange(100) < 90)
    by_coverage = {entry["coverage"]: entry for entry in entries}
    assert by_coverage[0.98]["accuracy"] == pytest.approx(90 / 98, abs=1e-4)
    # Clopper-Pearson: at this accuracy, 90 or more right answers have a probability of 2.5%.
    assert binom.sf(89, 97, by_coverage[0.98]["lower_bound"]) == pytest.approx(0.025, abs=2e-4)
    assert max(by_coverage) == 1.0
    assert by_coverage[0.9]["lower_bound"] == pytest.approx(0.025 ** (1 / 89), abs=1e-4)
    bounds = [entry["lower_bound"] for entry in entries]
    assert bounds == sorted(bounds)
    assert min(by_coverage) == 0.9  # fewer rows promise less


def test_rows_of_equal_confidence_are_above_a_threshold_together():
    [entry] = find_promises(np.full(50, 0.7), np.arange(50) % 5 > 0)
    assert (entry["threshold"], entry["coverage"], entry["accuracy"]) == (0.7, 1.0, 0.8)
    assert binom.sf(38, 49, entry["lower_bound"]) == pytest.approx(0.025, abs=2e-4)  # 39 of 49 are right


def test_a_model_without_a_right_answer_promises_nothing():
    assert find_promises(np.linspace(0.9, 0.5, 40), np.zeros(40, dtype=bool)) == []
    assert find_promises(np.array([0.9]), np.array([True])) == []


def test_a_promise_is_broken_in_at_most_5_percent_of_all_draws_of_dev():
    random = np.random.default_rng(0)

    def draw(count):
        """Draw texts of two domains whose model is overconfident, one more than the other."""
        logits, labels = {}, {}
        for domain, temperature in (("books", 1.5), ("dvd", 3.0)):
            own = random.normal(size=(count, 2)) * 6
            p = 1 / (1 + np.exp((own[:, 0] - own[:, 1]) / temperature))
            labels[domain] = np.where(random.random(count) < p, "good", "bad")
            logits[domain] = np.hstack([own, own]).astype(np.float32)
        return logits, labels

    test_logits, test_labels = draw(10_000)
    broken, promised, draws = {0.9: 0, 0.95: 0}, {0.9: 0, 0.95: 0}, 200
    for _ in range(draws):
        entry = fit_calibration(*draw(150), HEADS, SPEC)
        calibration = Calibration(**entry)
        confidences, right = [], []
        for domain, logits in test_logits.items():
            p = softmax(calibration.apply(logits, HEADS)[:, list(HEADS.columns[domain])], axis=1)
            confidences.append(p.max(axis=1))
            right.append(np.array(HEADS.labels[domain])[p.argmax(axis=1)] == test_labels[domain])
        confidences, right = np.concatenate(confidences), np.concatenate(right)
        for target in broken:
            enough = [row["threshold"] for row in entry["thresholds"]["given"] if row["lower_bound"] >= target]
            promised[target] += bool(enough)
            broken[target] += bool(enough) and right[confidences >= min(enough)].mean() < target
    assert promised[0.9] > draws / 2
    assert max(broken.values()) <= 0.05 * draws
