"""What a model folder records besides its weights."""

import json

import pytest
from transformers import AutoTokenizer

from hrkd_cli.choices import Split
from hrkd_cli.command_settings import EvalSettings
from hrkd_cli.evaluation.evaluate import evaluate_on
from hrkd_cli.predict.backend import open_backend
from short_runs import run_teach


@pytest.mark.parametrize(("truncate", "side"), [("head", None), ("tail", "left"), ("head-tail", None)])
def test_the_truncation_is_stored_with_the_model_and_used_by_eval(tmp_path, encoder, dataset, truncate, side):
    out = tmp_path / "t"
    result = run_teach(encoder, dataset, out, epochs=2, learning_rate=3e-3, max_length=7, truncate=truncate)
    assert json.loads((out / "config.json").read_text())["hrkd"]["truncate"] == truncate
    assert json.loads((out / "tokenizer_config.json").read_text()).get("truncation_side") == side
    # eval truncates in the same way, so its score equals the one during training.
    [scored] = evaluate_on([out], dataset, EvalSettings(split=Split.DEV)).models
    assert scored.to_json()["average"] == result.dev["average"]
    text = dataset.split("books", "dev").texts
    theirs = AutoTokenizer.from_pretrained(out)(text, truncation=True, max_length=7)["input_ids"]
    own = [e.ids for e in open_backend(out).tokenizer.encode(text)]
    assert (own == theirs) is (truncate != "head-tail")
