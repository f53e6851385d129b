"""Model folders that cannot be loaded."""

import ast
import contextlib
import io
import json
import shutil
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import hrkd_cli
from hrkd_cli.errors import ModelError, UsageError
from hrkd_cli.models.loading import (
    load_classifier,
    load_config,
    load_encoder,
    load_tokenizer,
    new_classifier,
    output_layer,
)
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.teaching.teach import teach
from short_runs import run_teach
from tiny import write_encoder
from tiny_folder import write_model


def test_a_folder_without_a_usable_model_is_refused(tmp_path, encoder, dataset):
    with pytest.raises(ModelError, match="no such folder"):
        teach("./nowhere", data="x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"no config.json"):
        teach(tmp_path / "empty", data="x")
    (tmp_path / "empty" / "config.json").write_text((encoder / "config.json").read_text())
    with pytest.raises(ModelError, match=r"no weights \(model.safetensors\)"):
        teach(tmp_path / "empty", data="x")
    (tmp_path / "empty" / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match=r"pytorch_model.bin, a pickle, which hrkd never opens"):
        teach(tmp_path / "empty", data="x")
    with pytest.raises(UsageError, match=r"--max-length 100: .*encoder takes at most 64 tokens"):
        run_teach(encoder, dataset, tmp_path / "t", max_length=100)


def test_an_incomplete_model_is_refused(tmp_path, encoder, dataset):
    """transformers would silently fill in random weights, or create a tokenizer."""
    broken = tmp_path / "broken"
    weights = load_file(encoder / "model.safetensors")

    def attempt(changed, config=None, words=r"missing or have another shape .*; give the folder of a complete model"):
        shutil.copytree(encoder, broken)
        save_file(changed, broken / "model.safetensors", metadata={"format": "pt"})
        if config:
            old = json.loads((broken / "config.json").read_text())
            (broken / "config.json").write_text(json.dumps({**old, **config}))
        with pytest.raises(ModelError, match=words):
            run_teach(broken, dataset, tmp_path / "t")
        shutil.rmtree(broken)

    attempt({f"foo.{name}": t for name, t in weights.items()})
    attempt({name: t for name, t in weights.items() if "layer.3." not in name})
    attempt(weights, {"intermediate_size": 64})
    shutil.copytree(encoder, broken)
    for file in broken.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match=r"no tokenizer in it \(tokenizer.json\)"):
        run_teach(broken, dataset, tmp_path / "t")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, encoder, dataset, value):
    damaged = shutil.copytree(encoder, tmp_path / "damaged")
    weights = load_file(damaged / "model.safetensors")
    weights["encoder.layer.1.output.dense.bias"][3] = value
    save_file(weights, damaged / "model.safetensors", metadata={"format": "pt"})
    words = r"damaged: 1 of its weights have values that are NaN or infinite \(such as .*layer.1.output.dense.bias\)"
    with pytest.raises(ModelError, match=words):
        run_teach(damaged, dataset, tmp_path / "t")
    with pytest.raises(ModelError, match=words):
        load_encoder(damaged)


# All that the documentation names.
@pytest.mark.parametrize(
    "architecture", ["bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert", "modernbert"]
)
def test_an_encoder_gives_the_same_hidden_states_after_it_got_a_new_head(tmp_path, architecture):
    folder = write_encoder(tmp_path / "encoder", architecture)
    heads = DomainHeads.build({"books": ("bad", "good"), "music": ("bad", "fine", "good")})
    classifier, encoder = load_classifier(folder, heads), load_encoder(folder)
    inputs = {"input_ids": torch.tensor([[2, 5, 9, 12, 3]]), "attention_mask": torch.ones(1, 5, dtype=torch.long)}
    with torch.no_grad():
        before = encoder(**inputs).last_hidden_state
        after = classifier.base_model(**inputs).last_hidden_state
    assert torch.equal(before, after)
    name, layer = output_layer(classifier)
    assert layer.out_features == heads.num_outputs
    assert not name.startswith(classifier.base_model_prefix)
    # A head for other labels of the same number is new too, and again nothing else is.
    classifier.save_pretrained(folder)
    others = DomainHeads.build({"dvd": ("a", "b"), "toys": ("a", "b", "c")})
    again = load_classifier(folder, others)
    changed = {key for key, value in again.state_dict().items() if not torch.equal(value, classifier.state_dict()[key])}
    assert changed == {f"{name}.weight"}  # biases start at 0 in both


def test_a_classifier_without_an_output_layer_is_refused(tmp_path):
    classifier = load_classifier(write_encoder(tmp_path / "e"), DomainHeads.build({"books": ("bad", "good")}))
    classifier.classifier = torch.nn.Identity()
    with pytest.raises(ModelError, match="BertForSequenceClassification: no linear layer with 2 outputs in its head"):
        output_layer(classifier)


CODE = """from pathlib import Path
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

Path("ran").touch()


class Own(BertConfig):
    model_type = "own"


class OwnModel(BertForSequenceClassification):
    config_class = Own


class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""
AUTO_MAP = {
    "AutoConfig": "code.Own",
    "AutoModel": "code.OwnModel",
    "AutoModelForSequenceClassification": "code.OwnModel",
}


@pytest.mark.parametrize("known", [True, False])
def test_code_in_a_model_folder_is_never_run(tmp_path, monkeypatch, known):
    """transformers asks on stdin whether to run it, so a text on stdin would be the answer."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 10))
    folder = write_model(tmp_path / "m")
    (folder / "code.py").write_text(CODE)
    _change(folder / "config.json", auto_map=AUTO_MAP, **({} if known else {"model_type": "own"}))
    _change(
        folder / "tokenizer_config.json",
        auto_map={"AutoTokenizer": [None, "code.OwnTokenizer"]},
        tokenizer_class="OwnTokenizer",
    )
    if known:  # transformers has the architecture itself
        load_classifier(folder, None)
        load_encoder(folder)
        new_classifier(load_config(folder))
    else:
        for load in (load_config, load_encoder, partial(load_classifier, heads=None)):
            with pytest.raises(ModelError, match="needs Python code of its own, which hrkd never runs; give a model"):
                load(folder)
    with contextlib.suppress(ModelError):
        load_tokenizer(folder)
    assert not Path("ran").exists()
    assert sys.stdin.read() == "y\n" * 10


def test_every_call_of_transformers_rules_out_code_of_the_model():
    calls = [
        (file.name, node)
        for file in Path(hrkd_cli.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id.lower().startswith("auto")
    ]
    assert len(calls) == 4
    for name, call in calls:
        given = {
            keyword.arg: ast.literal_eval(keyword.value)
            for keyword in call.keywords
            if keyword.arg == "trust_remote_code"
        }
        assert given == {"trust_remote_code": False}, f"{name}:{call.lineno}"


@pytest.mark.parametrize("entry", ["pytorch_model.bin", "../other/model.safetensors", "/m/model.safetensors", None])
def test_an_index_may_name_only_safetensors_files_of_its_folder(tmp_path, entry):
    folder = write_model(tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, "model-00001-of-00001.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    loaded = load_classifier(folder, None).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in weights.items())
    # With the right weights in the wrong place, which transformers opens.
    torch.save(weights, folder / "pytorch_model.bin")
    (tmp_path / "other").mkdir()
    shutil.copy(folder / "model-00001-of-00001.safetensors", tmp_path / "other" / "model.safetensors")
    index["weight_map"] = dict.fromkeys(weights, entry) if entry else None
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for load in (partial(load_classifier, heads=None), load_encoder):
        with pytest.raises(ModelError, match=r"index.json: names .*, but weights must be model\*.safetensors files in"):
            load(folder)


def test_a_configuration_with_endless_layers_is_refused(tmp_path):
    folder = write_model(tmp_path / "student")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 10**400}))
    with pytest.raises(ModelError, match=r"model .*student: config.json has over 1,000 layers; give a complete"):
        load_classifier(folder, None)


def test_a_configuration_cannot_choose_other_weights_or_attention_code(tmp_path):
    folder = write_model(tmp_path / "m")
    weights = load_classifier(folder, None).state_dict()
    save_file({name: tensor + 1 for name, tensor in weights.items()}, folder / "other.safetensors", {"format": "pt"})
    _change(folder / "config.json", transformers_weights="other.safetensors", attn_implementation="someone/kernel")
    model = load_classifier(folder, None)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert model.config._attn_implementation == "sdpa"
    assert "transformers_weights" not in model.config.to_dict()


def _change(file, **entries):
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))
