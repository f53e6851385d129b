import shutil
from dataclasses import replace

import pytest

from exporting import FORMAT_OPTIONS, FP32, SMALLER_FORMATS, export
from hrkd_cli import evaluate
from hrkd_cli.choices import Target
from hrkd_cli.errors import GateError
from hrkd_cli.events import Note
from hrkd_cli.onnx_export import gate, recipe_search
from hrkd_cli.onnx_export.cpu_targets import weight_format_for
from hrkd_cli.onnx_export.graph_editor import OnnxFormat
from hrkd_cli.onnx_export.recipe_search import RecipeSearch
from hrkd_cli.onnx_export.recipes import FORMATS, apply_recipe


def test_safer_recipes_are_tried_if_the_first_fail(student, other_weights, monkeypatch):
    tried = []

    def quantize(source, target, precision, recipe, inputs):
        tried.append(recipe.description)
        if "attention in fp32" not in recipe.description:
            shutil.copy(other_weights / "onnx" / FP32, target)
        else:
            apply_recipe(source, target, precision, recipe, inputs)

    monkeypatch.setattr(recipe_search, "apply_recipe", quantize)
    result = export(student, int8=True, max_drop=20, target="avx512-vnni")
    assert tried == [
        "per-channel scales",
        "per-tensor scales",
        "per-channel scales, per-row embedding scales",
        "per-channel scales, per-row embedding scales, attention in fp32",
    ]
    assert [(t["recipe"], t["passed"], t["kept"]) for t in result.to_json()["tries"]] == [
        *((text, False, False) for text in tried[:3]),
        (tried[3], True, True),
    ]
    assert result.gate.passed
    assert result.gate.drop == result.tries[-1].drop < min(t.drop for t in result.tries[:-1])
    # Of each layer the two dense layers outside attention, and the head's two.
    assert result.quantized_ops == {"MatMulInteger": 6, "Gather": 3}


def test_the_more_accurate_recipe_of_a_tier_is_kept(student, other_weights, monkeypatch):
    def quantize(source, target, precision, recipe, inputs):
        if "per-channel" in recipe.description:
            shutil.copy(other_weights / "onnx" / FP32, target)
        else:
            apply_recipe(source, target, precision, recipe, inputs)

    monkeypatch.setattr(recipe_search, "apply_recipe", quantize)
    result = export(student, int8=True, max_drop=100)
    assert [(t.recipe, t.passed, t.kept) for t in result.tries] == [
        ("per-channel scales", True, False),
        ("per-tensor scales", True, True),
    ]
    assert result.files[1].recipe == "per-tensor scales"
    assert result.quantized_ops == {"MatMulInteger": 14, "Gather": 3}


def test_a_drop_in_padded_batches_gives_a_warning(student, monkeypatch):
    def score(self, backend, task, *, padded=False):
        found = own(self, backend, task, padded=padded)
        return {domain: replace(one, accuracy=0.495) for domain, one in found.items()} if padded else found

    own = gate.AccuracyGate.score
    monkeypatch.setattr(gate.AccuracyGate, "score", score)
    seen = []
    export(student, int8=True, max_drop=50, on_event=seen.append)
    assert [e.text for e in seen if isinstance(e, Note) and e.warning] == [
        "int8 loses 50.50 points in padded batches of dev texts; run it one text at a time"
    ]


@pytest.mark.parametrize("smaller", SMALLER_FORMATS)
def test_a_failed_gate_lists_every_recipe_and_leaves_nothing(student, other_weights, smaller):
    before = sorted(student.rglob("*"))
    with pytest.raises(GateError, match=f"{smaller} loses .* export without --{smaller}$") as caught:
        export(student, **{FORMAT_OPTIONS[smaller]: True}, max_drop=5)
    assert sorted(student.rglob("*")) == before
    found = caught.value.result
    rungs = FORMATS[smaller].tiers_for(weight_format_for(Target.AUTO))
    assert [entry["recipe"] for entry in found["tries"]] == [recipe.description for tier in rungs for recipe in tier]
    assert not any(entry["passed"] or entry["kept"] for entry in found["tries"])
    assert found["gate"]["passed"] is False
    assert found["gate"]["drop"] > 5
    assert found["files"] == []


def test_one_failed_format_keeps_the_others_from_being_written(student, other_weights, monkeypatch):
    worse = recipe_search.apply_recipe

    def fails_int4(source, target, precision, recipe, inputs):
        make = worse if precision is OnnxFormat.INT4 else apply_recipe
        make(source, target, precision, recipe, inputs)

    monkeypatch.setattr(recipe_search, "apply_recipe", fails_int4)
    with pytest.raises(GateError, match="int4 loses"):
        export(student, fp16=True, int4=True, max_drop=2)
    assert not (student / "onnx").exists()


def test_trimming_and_quantization_share_max_drop(student, split_data, monkeypatch):
    lost = export(student, vocabulary_size=56, data=split_data, max_drop=100).trim_drop
    assert lost > 0
    seen = []

    def fails(self, precision, recipe):
        found = own_try(self, precision, recipe)
        seen.append(replace(found, drop=found.drop + 50, passed=False))
        return seen[-1]

    own_try = RecipeSearch._try
    monkeypatch.setattr(RecipeSearch, "_try", fails)
    with pytest.raises(GateError, match=rf"int8 loses .* points .*, {lost:.2f} of them by trimming, more") as caught:
        export(student, vocabulary_size=56, int8=True, data=split_data, max_drop=lost, out=student.parent / "other")
    gate = caught.value.result["gate"]
    assert gate == {"max_drop": lost, "drop": min(one.drop for one in seen), "passed": False}
    own = 100 * evaluate([student], data=split_data, split="dev").models[0].average.accuracy
    for one in seen:
        assert one.drop - 50 == pytest.approx(own - 100 * sum(one.accuracy.values()) / 2, abs=1e-5)
