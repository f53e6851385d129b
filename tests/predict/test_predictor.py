import itertools
import json
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest

from hrkd_cli import Predictor
from hrkd_cli.errors import ModelError, UsageError
from tiny_folder import make_texts

TEXTS = make_texts(30)


def test_torch_and_onnx_give_the_same(student):
    ours, graph = Predictor(student), Predictor(student / "onnx")
    np.testing.assert_allclose(ours.logits(TEXTS), graph.logits(TEXTS), atol=1e-4)
    for domain in ("books", "dvd", "any"):
        labels = [p.label for p in ours.predict(TEXTS, domain=domain)]
        assert labels == [p.label for p in graph.predict(TEXTS, domain=domain)]
        assert len(set(labels)) == 2  # else the test shows nothing


@pytest.mark.parametrize("place", ["", "onnx"])
def test_batch_and_padding_do_not_matter_in_fp32(student, place):
    predictor = Predictor(student / place)
    alone = predictor.logits(TEXTS)
    np.testing.assert_allclose(predictor.logits(TEXTS, batch_size=7), alone, atol=1e-5)
    np.testing.assert_allclose(predictor.logits(TEXTS, batch_size=7, pad_to=24), alone, atol=1e-5)


def test_a_predictions_parts(student):
    [prediction] = Predictor(student / "onnx/model.onnx", threads=1).predict(["a good book"], domain="dvd")
    assert (prediction.text, prediction.domain) == ("a good book", "dvd")
    assert sum(prediction.scores.values()) == pytest.approx(1)
    assert prediction.label == max(prediction.scores, key=prediction.scores.get)
    assert set(json.loads(json.dumps(prediction.to_json()))) == {"text", "domain", "label", "scores"}


def test_any_is_the_mean_over_domains(student):
    predictor = Predictor(student / "onnx")
    [books], [dvd], [mean] = (predictor.predict(["a cold pan"], domain=d) for d in ("books", "dvd", "any"))
    for label, score in mean.scores.items():
        assert score == pytest.approx((books.scores[label] + dvd.scores[label]) / 2)


def test_no_texts_no_predictions(student):
    assert Predictor(student / "onnx").predict([]) == []
    assert Predictor(student).predict([]) == []


def test_unknown_domain_and_unlike_labels(student, unlike):
    with pytest.raises(UsageError, match="domain 'cars' is not one of the model's: books, dvd, any"):
        Predictor(student / "onnx").predict(["a"], domain="cars")
    with pytest.raises(UsageError, match="name one domain"):
        Predictor(unlike / "onnx").predict(["a"])
    assert set(Predictor(unlike / "onnx").predict(["a"], domain="news")[0].scores) == {"politics", "sport", "weather"}


def test_pairs_are_wanted_or_not(student, paired):
    with pytest.raises(UsageError, match="reads two texts"):
        Predictor(paired / "onnx").predict(["a"])
    with pytest.raises(UsageError, match="reads one text"):
        Predictor(student / "onnx").predict(["a"], ["b"])
    one, other = (Predictor(paired / p).logits(["good book", "bad"], ["film", "not hot"]) for p in ("", "onnx"))
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_a_classifier_that_is_not_ours_has_only_any(foreign):
    predictor = Predictor(foreign / "onnx")
    assert predictor.domains == ()
    assert set(predictor.predict(["good"])[0].scores) == {"positive", "negative"}
    with pytest.raises(UsageError, match="is not one of the model's: any"):
        predictor.predict(["good"], domain="books")
    labels = [p.label for p in predictor.predict(TEXTS)]
    logits = predictor.logits(TEXTS)
    assert labels == [["positive", "negative"][i] for i in logits.argmax(axis=1)]


def test_an_exported_folder_needs_no_training_library(student, tmp_path):
    # Without the torch weights, as it would be copied to a small device.
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


def test_nothing_at_that_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hrkd-out").mkdir()
    for path in ("hrkd-out/studnet", "./absent", tmp_path / "absent", "absent.onnx", "a/b/c"):
        with pytest.raises(ModelError, match="no such file or folder"):
            Predictor(path)


def test_threads_below_one(student):
    with pytest.raises(UsageError, match="--threads"):
        Predictor(student / "onnx", threads=0)


def test_a_file_that_is_no_graph(student, tmp_path):
    shutil.copytree(student, tmp_path / "copy")
    (tmp_path / "copy/onnx/model.onnx").write_bytes(b"not a graph")
    with pytest.raises(ModelError, match="onnxruntime cannot read it"):
        Predictor(tmp_path / "copy/onnx")


def test_a_graph_of_another_model(student, unlike, tmp_path):
    shutil.copytree(student, tmp_path / "copy")
    shutil.copy(unlike / "onnx/model.onnx", tmp_path / "copy/onnx/model.onnx")
    with pytest.raises(ModelError, match=r"gives 5 outputs but config\.json names 4"):
        Predictor(tmp_path / "copy/onnx").predict(["a"])


def test_weights_that_are_not_numbers(student, tmp_path):
    shutil.copytree(student, tmp_path / "copy")
    graph = onnx.load(tmp_path / "copy/onnx/model.onnx")
    bias = next(t for t in graph.graph.initializer if t.name.endswith("classifier.bias"))
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(4, np.nan, dtype=np.float32), bias.name))
    onnx.save(graph, tmp_path / "copy/onnx/model.onnx")
    with pytest.raises(ModelError, match="not numbers"):
        Predictor(tmp_path / "copy/onnx").predict(["a"])


def test_a_stream_is_answered_text_by_text(student):
    asked = []

    def endless():
        for text in itertools.cycle(TEXTS):
            asked.append(text)
            yield text

    predictor = Predictor(student / "onnx")
    found = list(itertools.islice(predictor.stream(endless(), domain="dvd"), 5))
    assert found == predictor.predict(TEXTS[:5], domain="dvd")
    assert asked == TEXTS[:5]
    in_twos = list(predictor.stream(iter(TEXTS[:5]), domain="dvd", batch_size=2))
    assert [p.text for p in in_twos] == TEXTS[:5]
    assert [p.label for p in in_twos] == [p.label for p in found]


def test_a_stream_of_pairs(paired):
    predictor = Predictor(paired / "onnx")
    pairs = [("a good book", "not hot"), ("old", "new film")]
    found = list(predictor.stream(pairs, domain="dvd"))
    assert found == predictor.predict([a for a, _ in pairs], [b for _, b in pairs], domain="dvd")


def test_batches(student):
    predictor = Predictor(student / "onnx")
    alone_, together = predictor.predict(TEXTS, domain="dvd"), predictor.predict(TEXTS, domain="dvd", batch_size=5)
    assert [p.label for p in alone_] == [p.label for p in together]
    for one, other in zip(alone_, together, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-4)
    with pytest.raises(UsageError, match="batch_size: 0"):
        predictor.predict(TEXTS, batch_size=0)
