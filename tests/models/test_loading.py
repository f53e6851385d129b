"""Model folders that cannot be loaded."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from hrkd_cli.errors import ModelError, UsageError
from hrkd_cli.teaching.teach import teach
from short_runs import run_teach


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

    def attempt(changed, config=None, words=r"missing or of another shape .*; give the folder of a complete model"):
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
