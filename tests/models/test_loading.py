"""Model folders that cannot be loaded."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from hrkd_cli.errors import ModelError, UsageError
from hrkd_cli.models.loading import load_classifier, load_encoder, output_layer
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.teaching.teach import teach
from short_runs import run_teach
from tiny import write_encoder


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
