import numpy as np
import pytest

from hrkd_cli.errors import ModelError, UsageError
from hrkd_cli.predict.calibration import Calibration, check_limits
from hrkd_cli.predict.heads import DomainHeads

HEADS = DomainHeads.build({"books": ["bad", "good"], "news": ["art", "film", "war"]})
LOGITS = np.array([[1.0, 3.0, 0.5, 2.0, -1.0]], dtype=np.float32)
ENTRY = {"rows": 500, "temperatures": {"books": 2.0, "news": 0.5}, "domain_temperature": 4.0, "thresholds": {}}


def softmax(values):
    exponentials = np.exp(np.array(values, dtype=float))
    return exponentials / exponentials.sum()


def promise(threshold, lower_bound, coverage=0.5, accuracy=0.99):
    return {"threshold": threshold, "lower_bound": lower_bound, "coverage": coverage, "accuracy": accuracy}


def read(entry, file="model.onnx"):
    return Calibration.read({"hrkd": {"calibration": {"model.onnx": entry}}}, file)


def test_calibrated_logits_have_the_calibrated_probabilities_of_domains_and_labels():
    [calibrated] = read(ENTRY).apply(LOGITS, HEADS)
    books, news = softmax([1 / 2, 3 / 2]), softmax([0.5 / 0.5, 2 / 0.5, -1 / 0.5])
    np.testing.assert_allclose(softmax(calibrated[:2]), books)
    np.testing.assert_allclose(softmax(calibrated[2:]), news)
    evidence = [np.log(np.exp([1, 3]).sum()), np.log(np.exp([0.5, 2, -1]).sum())]
    domains = softmax([value / 4 for value in evidence])
    np.testing.assert_allclose(softmax(calibrated), [*(domains[0] * books), *(domains[1] * news)])


def test_temperatures_of_1_change_no_probability():
    entry = ENTRY | {"temperatures": {}, "domain_temperature": 1.0}
    np.testing.assert_allclose(read(entry).apply(LOGITS, HEADS), LOGITS, atol=1e-6)


def test_torch_weights_use_the_entry_of_fp32_and_other_files_their_own():
    assert read(ENTRY, "model.safetensors") == read(ENTRY, "model.onnx") is not None
    assert read(ENTRY, "model_quantized.onnx") is None
    assert Calibration.read({}, "model.onnx") is None


@pytest.mark.parametrize("change", [{"domain_temperature": 0}, {"temperatures": {"books": -1.0}}])
def test_a_temperature_that_is_not_above_0_is_an_error(change):
    with pytest.raises(ModelError, match=r"config\.json: a temperature of model\.onnx is not above 0; export again"):
        read(ENTRY | change)


def test_the_lowest_threshold_that_promises_the_target_is_found():
    rows = [promise(0.6, 0.9), promise(0.7, 0.95), promise(0.8, 0.97)]
    calibration = read(ENTRY | {"thresholds": {"given": rows, "auto": rows[2:]}})
    assert calibration.find_threshold(0.95, "given") == 0.7
    assert calibration.find_threshold(0.93, "given") == 0.7
    assert calibration.find_threshold(0.95, "auto") == 0.8


def test_a_target_that_dev_does_not_promise_says_how_many_rows_would():
    # With 2 wrong of 100: -ln 0.025 / (0.98 ln(98/97) + 0.02 ln(2/3)) = 1899.5 rows above the threshold, half of all.
    calibration = read(ENTRY | {"thresholds": {"given": [promise(0.6, 0.93, accuracy=0.98)]}})
    message = (
        r"--target-accuracy 97: the 500 dev rows of the export support at most 93\.0; export again with about 3,799 "
    )
    with pytest.raises(ModelError, match=message):
        calibration.find_threshold(0.97, "given")
    # Without an error, ln 0.025 / ln 0.99 = 367.04 rows.
    calibration = read(ENTRY | {"thresholds": {"given": [promise(0.6, 0.93, accuracy=1.0)]}})
    with pytest.raises(ModelError, match="export again with about 735 "):
        calibration.find_threshold(0.99, "given")
    calibration = read(ENTRY | {"thresholds": {"given": [promise(0.6, 0.93, accuracy=0.96)]}})
    with pytest.raises(ModelError, match=r"support at most 93\.0; more would not help"):
        calibration.find_threshold(0.97, "given")
    with pytest.raises(ModelError, match="the dev rows of the export support no target; export again"):
        calibration.find_threshold(0.99, "auto")


def test_a_missed_target_takes_more_rows_than_there_are():
    # Of 240 answers 5 are wrong: a normal approximation of the binomial distribution gives 144 rows.
    few_errors = {"threshold": 0.92, "lower_bound": 0.9486, "coverage": 0.64, "accuracy": 0.9792}
    calibration = read(ENTRY | {"rows": 375, "thresholds": {"given": [few_errors]}})
    with pytest.raises(ModelError, match=r"the 375 dev rows of the export support at most 94\.9; .* about 506 \("):
        calibration.find_threshold(0.95, "given")


def test_a_target_that_is_a_fraction_is_an_error_that_names_the_percentage():
    check_limits(None, 95)
    for target, message in (
        (0.95, r"0\.95 is a percentage; did you mean 95\?"),
        (0.999, r"did you mean 99\.9\?"),
        (1, "1 is not above 1 and below 100"),
        (0, "0 is not above 1 and below 100"),
    ):
        with pytest.raises(UsageError, match=f"^--target-accuracy: .*{message}"):
            check_limits(None, target)
