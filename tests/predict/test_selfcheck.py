import json
import shutil

import numpy as np
import onnx
import pytest

from hrkd_cli.cli.main import main
from hrkd_cli.errors import ModelError
from hrkd_cli.layout import OnnxFiles
from hrkd_cli.predict.selfcheck import self_check


@pytest.fixture
def copied(student, tmp_path):
    return shutil.copytree(student, tmp_path / "copy")


def change(onnx_file, name, by):
    """Add ``by`` to a weight."""
    model = onnx.load(onnx_file)
    tensor = next(t for t in model.graph.initializer if t.name.endswith(name))
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) + np.float32(by), tensor.name))
    onnx.save(model, onnx_file)


@pytest.mark.parametrize("subfolder", ["", "onnx"])
def test_an_unchanged_folder_passes(copied, subfolder, capsys, monkeypatch):
    assert [(entry.file, entry.passed, entry.wrong_labels) for entry in self_check(copied / subfolder, threads=1)] == [
        ("model.onnx", True, 0)
    ]
    assert main(["predict", "--self-check", str(copied / subfolder)]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("self-check passed: model.onnx: 16 cases, 0 other labels, logits within")
    assert captured.out.count("\n") == 1
    monkeypatch.chdir(copied / subfolder)
    assert self_check(".")[0].passed


def test_a_changed_model_fails(copied, capsys):
    change(copied / "onnx/model.onnx", "classifier.bias", 0.01)
    with pytest.raises(ModelError, match=r"self-check FAILED: model\.onnx: 16 cases, 0 other labels, .*0\.01 .0\.001 "):
        self_check(copied)
    assert main(["predict", str(copied), "--self-check"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("hrkd predict: ")
    assert captured.err.count("\n") == 1


def test_another_label_fails_at_any_tolerance(copied):
    path = copied / "onnx" / OnnxFiles.self_check
    content = json.loads(path.read_text())
    entry = content["files"]["model.onnx"]
    entry["tolerance"] = 100
    entry["labels"] = ["negative" if label == "positive" else label for label in entry["labels"]]
    flipped = sum(label == "negative" for label in entry["labels"])
    path.write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"\d+ other labels") as caught:
        self_check(copied)
    assert "0 other labels" not in str(caught.value)
    assert flipped > 0


def test_a_changed_tokenizer_fails(copied):
    path = copied / "tokenizer.json"
    content = json.loads(path.read_text())
    vocab = content["model"]["vocab"]
    vocab["good"], vocab["bad"] = vocab["bad"], vocab["good"]
    vocab["a"], vocab["it"] = vocab["it"], vocab["a"]
    path.write_text(json.dumps(content))
    with pytest.raises(ModelError, match="self-check FAILED"):
        self_check(copied)


def test_json_output_has_the_documented_keys(copied, capsys):
    assert main(["predict", "--self-check", str(copied), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] is True
    assert set(found["files"][0]) == {"file", "cases", "difference", "tolerance", "wrong_labels", "passed"}


def test_self_check_with_texts_is_an_error(copied, capsys):
    assert main(["predict", "--self-check", str(copied), "a text"]) == 2
    assert "--self-check uses the stored texts" in capsys.readouterr().err


def test_a_damaged_or_missing_file_is_an_error(copied, different_labels):
    path = copied / "onnx" / OnnxFiles.self_check
    intact = path.read_text()
    for broken in ("[]", "{}", intact.replace('"format": 1', '"format": 9'), intact.replace('"tolerance"', '"other"')):
        path.write_text(broken)
        with pytest.raises(ModelError):
            self_check(copied)
    other_domain = json.loads(intact)
    other_domain["cases"][0]["domain"] = "cars"
    path.write_text(json.dumps(other_domain))
    with pytest.raises(ModelError, match="a domain 'cars'"):
        self_check(copied)
    path.write_text(intact)
    shutil.copy(different_labels / "onnx/model.onnx", copied / "onnx/model.onnx")
    with pytest.raises(ModelError, match="export it again"):
        self_check(copied)
    (copied / "onnx/model.onnx").unlink()
    with pytest.raises(ModelError, match="missing; copy the whole folder"):
        self_check(copied)
    path.unlink()
    with pytest.raises(ModelError, match="hrkd export writes one"):
        self_check(copied)
