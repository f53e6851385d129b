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

    def quantize(source, target, onnx_format, recipe, inputs):
        tried.append(recipe.description)
        if "attention in fp32" not in recipe.description:
            shutil.copy(other_weights / "onnx" / FP32, target)
        else:
            apply_recipe(source, target, onnx_format, recipe, inputs)

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
    # The two dense layers outside attention in each layer, and the head's two.
    assert result.quantized_ops == {"MatMulInteger": 6, "Gather": 3}


def test_the_more_accurate_recipe_of_a_tier_is_kept(student, other_weights, monkeypatch):
    def quantize(source, target, onnx_format, recipe, inputs):
        if "per-channel" in recipe.description:
            shutil.copy(other_weights / "onnx" / FP32, target)
        else:
            apply_recipe(source, target, onnx_format, recipe, inputs)

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
        scores, logits = original(self, backend, task, padded=padded)
        return {d: replace(s, accuracy=0.495) for d, s in scores.items()} if padded else scores, logits

    original = gate.AccuracyGate.score
    monkeypatch.setattr(gate.AccuracyGate, "score", score)
    events = []
    export(student, int8=True, max_drop=50, on_event=events.append)
    assert [e.text for e in events if isinstance(e, Note) and e.warning] == [
        "int8 loses 50.50 points in padded batches of dev texts; run it one text at a time"
    ]


@pytest.mark.parametrize("onnx_format", SMALLER_FORMATS)
def test_a_failed_gate_lists_every_recipe_and_leaves_nothing(student, other_weights, onnx_format):
    before = sorted(student.rglob("*"))
    with pytest.raises(GateError, match=f"{onnx_format} loses .* export without --{onnx_format}$") as caught:
        export(student, **{FORMAT_OPTIONS[onnx_format]: True}, max_drop=5)
    assert sorted(student.rglob("*")) == before
    result = caught.value.result
    tiers = FORMATS[onnx_format].tiers_for(weight_format_for(Target.AUTO))
    assert [entry["recipe"] for entry in result["tries"]] == [recipe.description for tier in tiers for recipe in tier]
    assert not any(entry["passed"] or entry["kept"] for entry in result["tries"])
    assert result["gate"]["passed"] is False
    assert result["gate"]["drop"] > 5
    assert result["files"] == []


def test_one_failed_format_keeps_the_others_from_being_written(student, other_weights, monkeypatch):
    write_other_model = recipe_search.apply_recipe

    def fail_int4(source, target, onnx_format, recipe, inputs):
        write = write_other_model if onnx_format is OnnxFormat.INT4 else apply_recipe
        write(source, target, onnx_format, recipe, inputs)

    monkeypatch.setattr(recipe_search, "apply_recipe", fail_int4)
    with pytest.raises(GateError, match="int4 loses"):
        export(student, fp16=True, int4=True, max_drop=2)
    assert not (student / "onnx").exists()


def test_trimming_and_quantization_share_max_drop(student, split_data, monkeypatch):
    trim_drop = export(student, vocabulary_size=56, data=split_data, max_drop=100).trim_drop
    assert trim_drop > 0
    trials = []

    def fail(self, onnx_format, recipe):
        trial, logits = original(self, onnx_format, recipe)
        trials.append(replace(trial, drop=trial.drop + 50, passed=False))
        return trials[-1], logits

    original = RecipeSearch._try
    monkeypatch.setattr(RecipeSearch, "_try", fail)
    options = {"vocabulary_size": 56, "int8": True, "data": split_data, "max_drop": trim_drop}
    with pytest.raises(GateError, match=rf"int8 loses .*, {trim_drop:.2f} of them by trimming, more") as caught:
        export(student, **options, out=student.parent / "other")
    gate = caught.value.result["gate"]
    assert gate == {"max_drop": trim_drop, "drop": min(trial.drop for trial in trials), "passed": False}
    student_accuracy = 100 * evaluate([student], data=split_data, split="dev").models[0].average.accuracy
    for trial in trials:
        assert trial.drop - 50 == pytest.approx(student_accuracy - 100 * sum(trial.accuracy.values()) / 2, abs=1e-5)
