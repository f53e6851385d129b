import json
import shutil

import pytest

from hrkd_cli import Predictor
from hrkd_cli.errors import ModelError
from hrkd_cli.predict.model_spec import build_spec


def test_spec_of_a_multi_domain_student(student):
    spec = Predictor(student / "onnx").spec
    assert spec.heads.domains == ("books", "dvd")
    assert (spec.max_length, spec.pair) == (24, False)


@pytest.mark.parametrize(
    ("config", "tokenizer", "max_length"),
    [
        ({}, {}, 512),
        ({"max_position_embeddings": 8192}, {"model_max_length": 1000000000000000019884624838656}, 512),
        ({"max_position_embeddings": 258, "model_type": "roberta"}, {}, 256),
        ({"max_position_embeddings": 512}, {"model_max_length": 200}, 200),
    ],
)
def test_maximum_length_of_another_classifier(config, tokenizer, max_length):
    spec = build_spec(config, tokenizer)
    assert (spec.max_length, spec.pair, spec.heads) == (max_length, None, None)


def test_default_labels_that_transformers_does_not_write():
    assert build_spec({}, {}).config["id2label"] == {"0": "LABEL_0", "1": "LABEL_1"}


def test_a_configuration_that_is_not_json_is_an_error(student, tmp_path):
    shutil.copytree(student, tmp_path / "copy")
    (tmp_path / "copy/config.json").write_text("[1, 2")
    with pytest.raises(ModelError, match="cannot be read as JSON"):
        Predictor(tmp_path / "copy/onnx")
    (tmp_path / "copy/config.json").write_text(json.dumps([1]))
    with pytest.raises(ModelError, match="not a JSON object"):
        Predictor(tmp_path / "copy/onnx")
