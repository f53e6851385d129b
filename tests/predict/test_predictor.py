import itertools
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from hrkd_cli import Predictor, export
from hrkd_cli.errors import ModelError, UsageError
from hrkd_cli.predict.calibration import Calibration
from tiny_folder import MAX_LENGTH, make_texts, write_model

TEXTS = make_texts(30)


def test_torch_and_onnx_agree(student):
    ours, graph = Predictor(student), Predictor(student / "onnx")
    np.testing.assert_allclose(ours.logits(TEXTS), graph.logits(TEXTS), atol=1e-4)
    for domain in ("books", "dvd", "auto"):
        labels = [p.label for p in ours.predict(TEXTS, domain=domain)]
        assert labels == [p.label for p in graph.predict(TEXTS, domain=domain)]
        assert len(set(labels)) == 2  # otherwise the test proves nothing


@pytest.mark.parametrize("subfolder", ["", "onnx"])
def test_batch_and_padding_do_not_matter_in_fp32(student, subfolder):
    predictor = Predictor(student / subfolder)
    alone = predictor.logits(TEXTS)
    np.testing.assert_allclose(predictor.logits(TEXTS, batch_size=7), alone, atol=1e-5)
    np.testing.assert_allclose(predictor.logits(TEXTS, batch_size=7, pad_to=24), alone, atol=1e-5)


def test_a_prediction_has_text_domain_label_and_scores(student):
    [prediction] = Predictor(student / "onnx/model.onnx", threads=1).predict(["a good book"], domain="dvd")
    assert (prediction.text, prediction.domain) == ("a good book", "dvd")
    assert sum(prediction.scores.values()) == pytest.approx(1)
    assert prediction.label == max(prediction.scores, key=prediction.scores.get)
    assert set(json.loads(json.dumps(prediction.to_json()))) == {"text", "domain", "label", "scores"}


def test_auto_is_the_mean_over_domains_if_the_model_does_not_find_them(student):
    predictor = Predictor(student / "onnx")
    [books], [dvd], [mean] = (predictor.predict(["a cold pan"], domain=d) for d in ("books", "dvd", "auto"))
    assert (mean.domain, mean.domain_probability) == ("auto", None)
    for label, score in mean.scores.items():
        assert score == pytest.approx((books.scores[label] + dvd.scores[label]) / 2)


@pytest.mark.parametrize("file", ["", "onnx/model.onnx", "onnx/model_quantized.onnx"])
def test_auto_finds_the_domain_and_gives_its_probability(finding, file):
    predictor = Predictor(finding / file)
    calibration = Calibration.read(predictor.spec.config, file.removeprefix("onnx/"))
    exponentials = np.exp(
        calibration.apply(predictor.logits(TEXTS), predictor.spec.heads)
    )  # books/negative, books/positive, dvd/...
    joint = exponentials / exponentials.sum(axis=1, keepdims=True)
    found = list(predictor.stream(TEXTS))
    assert found == predictor.predict(TEXTS, domain="auto", batch_size=1)
    assert {prediction.domain for prediction in found} == {"books", "dvd"}
    for prediction, row in zip(found, joint, strict=True):
        by_label = {"negative": row[0] + row[2], "positive": row[1] + row[3]}
        by_domain = {"books": row[0] + row[1], "dvd": row[2] + row[3]}
        assert prediction.scores == pytest.approx(by_label)
        assert prediction.label == max(by_label, key=by_label.get)
        assert prediction.domain == max(by_domain, key=by_domain.get)
        assert prediction.domain_probability == pytest.approx(by_domain[prediction.domain])
        assert prediction.to_json()["domain_probability"] == prediction.domain_probability
    [given, blank] = predictor.predict(["good", " "], domain=["dvd", "auto"])
    assert given == Predictor(finding / file).predict(["good"], domain="dvd")[0]
    assert blank.to_json() == {"text": " ", "domain": "auto", "label": None, "scores": {}}


@pytest.mark.parametrize("subfolder", ["", "onnx"])
def test_auto_finds_the_pair_of_domain_and_label_if_domains_have_different_labels(finding_different_labels, subfolder):
    predictor = Predictor(finding_different_labels / subfolder)
    names = [predictor.spec.config["id2label"][key] for key in sorted(predictor.spec.config["id2label"])]
    found = predictor.predict(TEXTS, batch_size=1)
    assert {prediction.domain for prediction in found} == {"books", "news"}
    for prediction, row in zip(found, np.exp(predictor.logits(TEXTS).astype(np.float64)), strict=True):
        joint = dict(zip(names, (row / row.sum()).tolist(), strict=True))
        assert prediction.scores == pytest.approx(joint)
        assert list(prediction.scores.values()) == sorted(prediction.scores.values(), reverse=True)
        assert f"{prediction.domain}/{prediction.label}" == next(iter(prediction.scores)) == max(joint, key=joint.get)
        of_domain = sum(score for name, score in joint.items() if name.startswith(prediction.domain))
        assert prediction.domain_probability == pytest.approx(of_domain)


def test_a_transformers_pipeline_gives_the_same_pair_and_probability(finding_different_labels):
    from transformers import pipeline

    classify = pipeline(
        "text-classification", model=str(finding_different_labels), truncation=True, max_length=MAX_LENGTH
    )
    texts = [*TEXTS, " ".join(TEXTS)]
    found = Predictor(finding_different_labels).predict(texts)
    for prediction, piped in zip(found, classify(texts, batch_size=1), strict=True):
        assert piped["label"] == f"{prediction.domain}/{prediction.label}"
        assert piped["score"] == pytest.approx(prediction.scores[piped["label"]], abs=1e-5)


def test_a_single_domain_is_not_searched_for(finding, tmp_path):
    export(finding, domain="dvd", out=tmp_path / "dvd", latency=False)
    only, all_heads = Predictor(tmp_path / "dvd/onnx"), Predictor(finding / "onnx/model.onnx")
    found = only.predict(["good", ""])
    assert [(one.domain, one.domain_probability) for one in found] == [("dvd", None)] * 2
    assert found == only.predict(["good", ""], domain="dvd")
    assert found[0].scores == pytest.approx(all_heads.predict(["good"], domain="dvd")[0].scores, abs=1e-4)


def test_each_text_can_have_a_domain_of_its_own(student, different_labels):
    predictor = Predictor(student / "onnx")
    texts, domains = TEXTS[:4], ["dvd", "books", "auto", "dvd"]
    found = predictor.predict(texts, domain=domains)
    assert found == [predictor.predict([text], domain=name)[0] for text, name in zip(texts, domains, strict=True)]
    assert list(predictor.stream(texts, domain=iter(domains))) == found
    assert len(Predictor(different_labels / "onnx").predict(["a", "b"], domain=["news", "books"])[0].scores) == 3
    with pytest.raises(UsageError, match=r"not as many domains \(1\) as texts \(2\)"):
        predictor.predict(["a", "b"], domain=["books"])
    with pytest.raises(UsageError, match=r"domain 'cars' is not one of the model's"):
        predictor.predict(["a", "b"], domain=["books", "cars"])


def test_a_blank_text_has_no_label(student, paired):
    predictor = Predictor(student / "onnx")
    good, blank, bad = predictor.predict(["good", " \n", "bad"], domain="dvd")
    assert (blank.text, blank.domain, blank.label, blank.scores) == (" \n", "dvd", None, {})
    assert [good, bad] == predictor.predict(["good", "bad"], domain="dvd")
    assert [p.label for p in predictor.predict(["", " "])] == [None, None]
    labels = [p.label for p in Predictor(paired / "onnx").predict(["good", "good", ""], ["bad", "", "bad"])]
    assert labels[0] is not None
    assert labels[1:] == [None, None]


def test_no_texts_give_no_predictions(student):
    assert Predictor(student / "onnx").predict([]) == []
    assert Predictor(student).predict([]) == []


@pytest.mark.parametrize("subfolder", ["", "onnx"])
def test_a_text_that_is_not_utf_8_is_an_error(student, subfolder):
    with pytest.raises(UsageError, match=r"^texts\[1\]: not UTF-8 "):
        Predictor(student / subfolder).predict(["good", "a\ud800b"])


def test_an_unknown_domain_and_auto_over_different_labels_are_errors(student, different_labels):
    with pytest.raises(UsageError, match=r"domain 'cars' is not one of the model's: books, dvd, auto$"):
        Predictor(student / "onnx").predict(["a"], domain="cars")
    with pytest.raises(UsageError, match=r"domain 'book' is not .*; did you mean books?"):
        Predictor(student / "onnx").predict(["a"], domain="book")
    with pytest.raises(UsageError, match="name one domain"):
        Predictor(different_labels / "onnx").predict(["a"])
    assert set(Predictor(different_labels / "onnx").predict(["a"], domain="news")[0].scores) == {
        "politics",
        "sport",
        "weather",
    }


def test_missing_or_unexpected_pairs_are_errors(student, paired):
    with pytest.raises(UsageError, match="reads two texts"):
        Predictor(paired / "onnx").predict(["a"])
    with pytest.raises(UsageError, match="reads one text"):
        Predictor(student / "onnx").predict(["a"], ["b"])
    one, other = (Predictor(paired / p).logits(["good book", "bad"], ["film", "not hot"]) for p in ("", "onnx"))
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_a_classifier_with_plain_labels_has_only_the_domain_auto(plain):
    predictor = Predictor(plain / "onnx")
    assert predictor.domains == ()
    assert set(predictor.predict(["good"])[0].scores) == {"positive", "negative"}
    with pytest.raises(UsageError, match="is not one of the model's: auto"):
        predictor.predict(["good"], domain="books")
    labels = [p.label for p in predictor.predict(TEXTS)]
    logits = predictor.logits(TEXTS)
    assert labels == [["positive", "negative"][i] for i in logits.argmax(axis=1)]


def test_an_exported_folder_imports_no_training_library(student, tmp_path):
    # Without torch weights, as copied to a small device.
    shutil.copytree(student, tmp_path / "device", ignore=shutil.ignore_patterns("*.safetensors"))
    code = (
        "import sys; from hrkd_cli import Predictor; "
        "[p] = Predictor(sys.argv[1]).predict(['a good book']); "
        "heavy = {'torch', 'transformers', 'datasets', 'pyarrow', 'rich', 'onnx', 'safetensors', 'huggingface_hub'}; "
        "print(p.label, sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "device")], capture_output=True, text=True, check=True
    )
    label = Predictor(student).predict(["a good book"])[0].label
    assert done.stdout == f"{label} []\n"
    assert done.stderr == ""


def test_a_stream_is_labeled_text_by_text(student):
    consumed = []

    def endless():
        for text in itertools.cycle(TEXTS):
            consumed.append(text)
            yield text

    predictor = Predictor(student / "onnx")
    found = list(itertools.islice(predictor.stream(endless(), domain="dvd"), 5))
    assert found == predictor.predict(TEXTS[:5], domain="dvd")
    assert consumed == TEXTS[:5]
    in_twos = list(predictor.stream(iter(TEXTS[:5]), domain="dvd", batch_size=2))
    assert [p.text for p in in_twos] == TEXTS[:5]
    assert [p.label for p in in_twos] == [p.label for p in found]


def test_a_stream_of_pairs(paired):
    predictor = Predictor(paired / "onnx")
    pairs = [("a good book", "not hot"), ("old", "new film")]
    found = list(predictor.stream(pairs, domain="dvd"))
    assert found == predictor.predict([a for a, _ in pairs], [b for _, b in pairs], domain="dvd")


def test_batch_size_does_not_change_fp32_predictions(student):
    predictor = Predictor(student / "onnx")
    single, batched = predictor.predict(TEXTS, domain="dvd"), predictor.predict(TEXTS, domain="dvd", batch_size=5)
    assert [p.label for p in single] == [p.label for p in batched]
    for one, other in zip(single, batched, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-4)
    with pytest.raises(UsageError, match="batch_size: 0"):
        predictor.predict(TEXTS, batch_size=0)


def calibrate(folder, **thresholds):
    """Store a calibration without effect on probabilities, with thresholds as (threshold, lower bound)."""
    config = json.loads((folder / "config.json").read_text())
    rows = {
        name: [{"threshold": t, "lower_bound": bound, "coverage": 1.0, "accuracy": 1.0} for t, bound in pairs]
        for name, pairs in thresholds.items()
    }
    entry = {"rows": 40, "temperatures": {}, "domain_temperature": 1.0, "thresholds": rows}
    config["hrkd"]["calibration"] = {"model.onnx": entry}
    (folder / "config.json").write_text(json.dumps(config))
    return folder / "onnx"


def test_answers_below_a_confidence_are_marked_and_keep_their_label(student):
    plain = Predictor(student / "onnx").predict(TEXTS, domain="dvd")
    confidences = [max(p.scores.values()) for p in plain]
    limit = sorted(confidences)[10]
    marked = Predictor(student / "onnx", min_confidence=limit).predict([*TEXTS, " "], domain="dvd")
    assert [p.abstain for p in marked] == [*(c < limit for c in confidences), True]  # no answer for a blank text
    assert sum(p.abstain for p in marked) == 11
    assert [p.label for p in marked] == [*(p.label for p in plain), None]
    assert marked[0].to_json() == {**plain[0].to_json(), "abstain": confidences[0] < limit}
    assert plain[0].abstain is None
    assert not any(p.abstain for p in Predictor(student / "onnx", min_confidence=0).predict(TEXTS, domain="dvd"))


def test_a_fallback_answers_what_the_model_is_not_certain_of(student, finding):
    plain, larger = (
        Predictor(path).predict([*TEXTS, " "], domain="dvd") for path in (student / "onnx", finding / "onnx/model.onnx")
    )
    limit = sorted(max(p.scores.values()) for p in plain[:-1])[10]
    predictor = Predictor(student / "onnx", min_confidence=limit, fallback=finding / "onnx/model.onnx")
    together = predictor.predict([*TEXTS, " "], domain="dvd")
    uncertain = [bool(p.scores) and max(p.scores.values()) < limit for p in plain]
    assert sum(uncertain) == 10
    assert [p.fallback for p in together] == uncertain
    expected = zip(uncertain, plain, larger, strict=True)
    assert [p.scores for p in together] == [big.scores if sent else small.scores for sent, small, big in expected]
    assert [p.abstain for p in together] == [*([False] * len(TEXTS)), True]  # no model answers a blank text
    assert plain[0].fallback is None
    assert list(predictor.stream(TEXTS, domain="dvd")) == together[:-1]


def test_a_fallback_needs_a_limit_and_the_same_labels(student, different_labels, tmp_path):
    with pytest.raises(UsageError, match="say how certain it must be with --min-confidence or --target-accuracy"):
        Predictor(student / "onnx", fallback=student)
    with pytest.raises(UsageError, match="it has no domain 'dvd', only books, news"):
        Predictor(student / "onnx", min_confidence=0.5, fallback=different_labels)
    shutil.copytree(student, tmp_path / "student")
    config = (tmp_path / "student/config.json").read_text()
    (tmp_path / "student/config.json").write_text(config.replace("positive", "fine"))
    with pytest.raises(UsageError, match="'books' its labels are negative, fine, but the model's are negative, pos"):
        Predictor(student / "onnx", min_confidence=0.5, fallback=tmp_path / "student/onnx")
    (tmp_path / "student/config.json").write_text(config.replace('"pair": false', '"pair": true'))
    with pytest.raises(UsageError, match="it reads two texts, unlike the model"):
        Predictor(student / "onnx", min_confidence=0.5, fallback=tmp_path / "student/onnx")


def test_a_target_accuracy_uses_the_threshold_of_given_or_unknown_domains(student, tmp_path):
    shutil.copytree(student, tmp_path / "student")
    onnx = calibrate(tmp_path / "student", given=[(0.6, 0.9), (0.75, 0.96)], auto=[(0.7, 0.97)])
    target = Predictor(onnx, target_accuracy=95)
    for domain, threshold in (("dvd", 0.75), ("auto", 0.7)):
        same = Predictor(onnx, min_confidence=threshold).predict(TEXTS, domain=domain)
        assert target.predict(TEXTS, domain=domain) == same
        assert {p.abstain for p in same} == {True, False}
    mixed = target.predict(TEXTS[:2], domain=["auto", "dvd"])
    assert mixed == [target.predict(TEXTS[:1])[0], target.predict(TEXTS[1:2], domain="dvd")[0]]
    # Torch weights have the thresholds of the fp32 file.
    torch = Predictor(tmp_path / "student", target_accuracy=95).predict(TEXTS, domain="dvd")
    assert [p.abstain for p in torch] == [p.abstain for p in target.predict(TEXTS, domain="dvd")]
    with pytest.raises(ModelError, match=r"support at most 97\.0"):
        Predictor(onnx, target_accuracy=99).predict(TEXTS)
    with pytest.raises(ModelError, match="has no thresholds, because it was exported without dev data"):
        Predictor(student / "onnx", target_accuracy=95)
    with pytest.raises(UsageError, match="give one of them"):
        Predictor(onnx, target_accuracy=95, min_confidence=0.5)


def test_a_model_that_finds_no_domain_says_so_before_it_looks_for_a_threshold(different_labels, tmp_path):
    shutil.copytree(different_labels, tmp_path / "student")
    onnx = calibrate(tmp_path / "student", given=[(0.6, 0.9)])
    with pytest.raises(UsageError, match="name one domain"):
        Predictor(onnx, target_accuracy=90).predict(["a"])


def test_a_fallback_must_find_domains_only_if_they_are_not_given(student, tmp_path):
    folder = write_model(tmp_path / "more", labels=dict.fromkeys(("books", "dvd", "games"), ("negative", "positive")))
    predictor = Predictor(student / "onnx", min_confidence=1.0, fallback=folder)
    assert predictor.predict(["good"], domain="dvd")[0].fallback
    with pytest.raises(UsageError, match="--fallback: it also has the domains games, which the model does not have"):
        predictor.predict(["good"])
