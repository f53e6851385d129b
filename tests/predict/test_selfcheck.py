import json
import shutil

import numpy as np
import onnx
import pytest

from hrkd_cli.cli.main import main
from hrkd_cli.errors import ModelError
from hrkd_cli.layout import OnnxFiles
from hrkd_cli.predict.selfcheck import self_check, sha256_of


@pytest.fixture
def copied(student, tmp_path):
    return shutil.copytree(student, tmp_path / "copy")


def stored(folder):
    return json.loads((folder / "onnx" / OnnxFiles.self_check).read_text())


def store(folder, content):
    (folder / "onnx" / OnnxFiles.self_check).write_text(json.dumps(content))


def renew_checksums(folder):
    """Store the checksums of changed files, so that only their predictions differ."""
    content = stored(folder)
    for name, entry in content["files"].items():
        entry["sha256"] = sha256_of(folder / "onnx" / name)
    store(folder, content | {"sha256": {name: sha256_of(folder / name) for name in content["sha256"]}})


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
    assert captured.out.startswith("self-check passed: model.onnx: 16 cases, 0 of 16 labels differ, logits within")
    assert captured.out.count("\n") == 1
    monkeypatch.chdir(copied / subfolder)
    assert self_check(".")[0].passed


def test_a_model_that_computes_other_logits_fails_even_if_its_checksum_is_right(copied, capsys):
    change(copied / "onnx/model.onnx", "classifier.bias", 0.01)
    renew_checksums(copied)
    message = r"self-check FAILED: model\.onnx: 16 cases, 0 of 16 labels differ, .*0\.01 .0\.001 "
    with pytest.raises(ModelError, match=message):
        self_check(copied)
    assert main(["predict", str(copied), "--self-check"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("hrkd predict: ")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("name", ["onnx/model.onnx", "config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_file_with_one_other_byte_fails_even_if_it_computes_the_same(copied, name):
    file = copied / name
    if file.suffix == ".onnx":
        model = onnx.load(file)
        model.doc_string = "edited"
        onnx.save(model, file)
    else:
        file.write_text(file.read_text() + " ")
    message = rf"self-check FAILED: not the file that was exported \(sha256\): \S*{name}; copy the whole folder again"
    with pytest.raises(ModelError, match=message):
        self_check(copied)


def test_a_file_of_an_earlier_export_fails(copied, finding, capsys):
    stale = copied / "onnx" / OnnxFiles.int8
    shutil.copy(finding / "onnx" / OnnxFiles.int8, stale)
    assert main(["predict", str(copied), "--self-check"]) == 1
    assert capsys.readouterr() == (
        "",
        f"hrkd predict: self-check FAILED: not exported with the other files: {stale}; delete it, or copy the whole "
        "folder again, into an empty one\n",
    )
    stale.rename(stale.with_name("._model.onnx"))  # macOS copies such files
    assert self_check(copied)[0].passed


@pytest.mark.parametrize("name", ["model.onnx", "self_check.json"])
def test_of_a_file_the_message_names_its_folder(copied, name):
    file = copied / "onnx" / name
    with pytest.raises(ModelError) as raised:
        self_check(file)
    assert str(raised.value) == f"{file}: is a file; name its folder, {copied / 'onnx'}"


def test_a_missing_tokenizer_configuration_fails(copied):
    (copied / "tokenizer_config.json").unlink()
    with pytest.raises(ModelError, match=r"not the file that was exported \(sha256\): \S*tokenizer_config.json"):
        self_check(copied)


@pytest.mark.parametrize("remove", [lambda c: c.pop("sha256"), lambda c: c["files"]["model.onnx"].pop("sha256")])
def test_a_file_without_checksums_is_damaged(copied, remove):
    content = stored(copied)
    remove(content)
    store(copied, content)
    with pytest.raises(ModelError, match=r"self_check\.json: .*sha256 is missing"):
        self_check(copied)


def test_without_a_label_to_compare_the_check_does_not_pass(copied, capsys):
    content = stored(copied)
    content["files"]["model.onnx"]["labels"] = [None] * 16
    store(copied, content)
    assert main(["predict", "--self-check", str(copied)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "self-check cannot pass: model.onnx: 16 cases, 0 of 0 labels differ" in captured.err


def test_another_label_fails_at_any_tolerance(copied):
    content = stored(copied)
    entry = content["files"]["model.onnx"]
    entry["tolerance"] = 100
    entry["labels"] = ["negative" if label == "positive" else label for label in entry["labels"]]
    store(copied, content)
    with pytest.raises(ModelError, match=r"[1-9]\d* of 16 labels differ"):
        self_check(copied)


def test_a_tokenizer_with_other_ids_fails_even_if_its_checksum_is_right(copied):
    path = copied / "tokenizer.json"
    content = json.loads(path.read_text())
    vocab = content["model"]["vocab"]
    vocab["good"], vocab["bad"] = vocab["bad"], vocab["good"]
    vocab["a"], vocab["it"] = vocab["it"], vocab["a"]
    path.write_text(json.dumps(content))
    renew_checksums(copied)
    with pytest.raises(ModelError, match="self-check FAILED: model"):
        self_check(copied)


def test_json_output_has_the_documented_keys(copied, capsys):
    assert main(["predict", "--self-check", str(copied), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] is True
    (entry,) = found["files"]
    names = {"file", "cases", "difference", "tolerance", "wrong_labels", "compared_labels", "passed"}
    assert set(entry) == names
    assert entry["compared_labels"] == 16


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
    renew_checksums(copied)
    with pytest.raises(ModelError, match="export it again"):
        self_check(copied)
    (copied / "onnx/model.onnx").unlink()
    with pytest.raises(ModelError, match="missing; copy the whole folder"):
        self_check(copied)
    path.unlink()
    with pytest.raises(ModelError, match="hrkd export writes one"):
        self_check(copied)
