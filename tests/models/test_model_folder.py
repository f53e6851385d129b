"""What a model folder records besides its weights."""

import json

import pytest
from transformers import AutoTokenizer

from hrkd_cli.cards import code_span
from hrkd_cli.choices import Split
from hrkd_cli.command_settings import EvalSettings
from hrkd_cli.evaluation.evaluate import evaluate_on
from hrkd_cli.models.model_folder import model_card
from hrkd_cli.predict.backend import open_backend
from hrkd_cli.predict.heads import DomainHeads
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


def test_names_in_a_card_are_neither_html_nor_shell_words():
    heads = DomainHeads.build({"a shop|<b>`x`; rm": ("<script>", "R&D|x")})
    scores = {heads.domains[0]: {"n": 4, "accuracy": 0.5, "macro_f1": 0.5}}
    facts = {"max_length": 16, "truncate": "head"}
    card = model_card(title="my <i>model</i>", description="Made.", heads=heads, scores=scores, **facts)
    text = card.split("---\n", 2)[2]
    assert text.startswith("\n# my &lt;i&gt;model&lt;/i&gt;\n\nMade.\n")
    assert "\n| a shop\\|&lt;b&gt;`x`; rm | 4 | 0.500 | 0.500 |\n" in text
    assert "\n    hrkd predict . --domain 'a shop|<b>`x`; rm' \"a text\"\n" in text
    assert "domain `` a shop|<b>`x`; rm `` are 0, 1 (&lt;script&gt;, R&amp;D|x)." in text
    assert code_span("a <b>") == "`a <b>`"
