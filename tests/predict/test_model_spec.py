import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers.models.auto.configuration_auto import model_type_to_module_name
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as CLASSIFIERS

from hrkd_cli import Predictor
from hrkd_cli.errors import ModelError
from hrkd_cli.predict.model_spec import OFFSET_POSITION_TYPES, build_spec, position_limit

DOCUMENTED = ("bert", "roberta", "xlm-roberta", "camembert", "distilbert", "electra", "modernbert")


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


@pytest.mark.parametrize("pad_token_id", [0, 1, 3])
@pytest.mark.parametrize("model_type", sorted({*DOCUMENTED, *OFFSET_POSITION_TYPES}))
def test_a_model_can_run_on_as_many_tokens_as_its_position_limit(model_type, pad_token_id):
    sizes = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
    config = AutoConfig.for_model(
        model_type,
        vocab_size=30,
        max_position_embeddings=24,
        pad_token_id=pad_token_id,
        attention_window=8,
        **{"coordinate_size": 8, "shape_size": 8},  # together the hidden size of LayoutLMv3
        **{"entity_vocab_size": 10, "entity_emb_size": 8},  # LUKE's are large
        default_language="en_XX",  # for X-MOD
        **({"dim": 32, "n_layers": 1, "n_heads": 4, "hidden_dim": 32} if model_type == "distilbert" else sizes),
        **({"bos_token_id": 2, "cls_token_id": 2, "sep_token_id": 2} if model_type == "modernbert" else {}),
    )
    model = AutoModelForSequenceClassification.from_config(config).eval()
    limit = position_limit(config.to_dict())
    assert limit >= 20
    ids = torch.arange(limit).remainder(20)[None] + 5
    with torch.no_grad():
        assert model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.isfinite().all()


def test_every_classifier_that_counts_positions_from_the_padding_id_is_known():
    source = Path(transformers.__file__).parent / "models"
    modules = {name: (source / model_type_to_module_name(name)).glob("modeling_*.py") for name in CLASSIFIERS}
    found = {name for name, files in modules.items() if any("padding_idx + 1" in file.read_text() for file in files)}
    assert found == OFFSET_POSITION_TYPES


def test_a_stored_length_beyond_the_position_table_is_an_error():
    config = {"max_position_embeddings": 26, "model_type": "roberta", "hrkd": {"max_length": 24}}
    assert build_spec(config, {}).max_length == 24
    assert build_spec({**config, "hrkd": {"max_length": 99, "encoder_length": 24}}, {}).max_length == 99
    with pytest.raises(ModelError, match=r"hrkd allows 24 tokens, but the model has 23 positions"):
        build_spec({**config, "max_position_embeddings": 25}, {})


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
