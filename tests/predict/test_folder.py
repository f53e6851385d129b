import json
import shutil

import pytest

from hrkd_cli import Predictor
from hrkd_cli.errors import ModelError
from hrkd_cli.predict import folder
from hrkd_cli.predict.folder import build_spec, locate


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("{}")


def test_an_onnx_folder_means_its_int8_graph_else_its_fp32_one(tmp_path):
    touch(tmp_path, "config.json", "onnx/model.onnx")
    assert locate(tmp_path / "onnx") == folder.Location(tmp_path, tmp_path / "onnx/model.onnx")
    touch(tmp_path, "onnx/model_quantized.onnx")
    assert locate(tmp_path / "onnx").graph.name == "model_quantized.onnx"
    assert locate(tmp_path / "onnx/model.onnx").graph.name == "model.onnx"


def test_a_model_folder_means_its_torch_weights_else_its_graphs(tmp_path):
    touch(tmp_path, "config.json", "onnx/model.onnx")
    assert locate(tmp_path).graph == tmp_path / "onnx/model.onnx"
    touch(tmp_path, "model.safetensors")
    assert locate(tmp_path) == folder.Location(tmp_path, None)


def test_a_folder_with_graph_and_configuration_together(tmp_path):
    touch(tmp_path, "config.json", "model.onnx")
    assert locate(tmp_path) == folder.Location(tmp_path, tmp_path / "model.onnx")


def test_the_folder_one_stands_in(tmp_path, monkeypatch):
    touch(tmp_path, "config.json", "onnx/model.onnx")
    monkeypatch.chdir(tmp_path / "onnx")
    assert locate(".").root.resolve() == tmp_path.resolve()


def test_what_is_no_model(tmp_path):
    with pytest.raises(ModelError, match="no such file or folder"):
        locate(tmp_path / "absent")
    assert locate("absent/hub-id") is None
    with pytest.raises(ModelError, match="no model in this folder"):
        locate(tmp_path)
    touch(tmp_path, "notes.txt", "onnx/model.onnx")
    with pytest.raises(ModelError, match="not a model"):
        locate(tmp_path / "notes.txt")
    with pytest.raises(ModelError, match=r"no config\.json"):
        locate(tmp_path / "onnx")


def test_other_graphs_have_to_be_named(tmp_path):
    touch(tmp_path, "config.json", "onnx/model_fp16.onnx")
    with pytest.raises(ModelError, match="model_fp16"):
        locate(tmp_path / "onnx")


def test_spec_of_ours(student):
    spec = Predictor(student / "onnx").spec
    assert spec.heads.domains == ("books", "dvd")
    assert (spec.max_length, spec.pair) == (24, False)


@pytest.mark.parametrize(
    ("config", "tokenizer", "longest"),
    [
        ({}, {}, 512),
        ({"max_position_embeddings": 8192}, {"model_max_length": 1000000000000000019884624838656}, 512),
        ({"max_position_embeddings": 258, "model_type": "roberta"}, {}, 256),
        ({"max_position_embeddings": 512}, {"model_max_length": 200}, 200),
    ],
)
def test_length_of_a_classifier_that_is_not_ours(config, tokenizer, longest):
    spec = build_spec(config, tokenizer)
    assert (spec.max_length, spec.pair, spec.heads) == (longest, None, None)


def test_labels_that_transformers_leaves_out():
    assert build_spec({}, {}).config["id2label"] == {"0": "LABEL_0", "1": "LABEL_1"}


def test_a_configuration_that_is_not_json(student, tmp_path):
    shutil.copytree(student, tmp_path / "copy")
    (tmp_path / "copy/config.json").write_text("[1, 2")
    with pytest.raises(ModelError, match="cannot be read as JSON"):
        Predictor(tmp_path / "copy/onnx")
    (tmp_path / "copy/config.json").write_text(json.dumps([1]))
    with pytest.raises(ModelError, match="not a JSON object"):
        Predictor(tmp_path / "copy/onnx")
