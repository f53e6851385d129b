import errno
import functools
import json
import shutil
import warnings
from dataclasses import replace

import pytest

import hrkd_cli
from hrkd_cli import Predictor, evaluate
from hrkd_cli.errors import DataError, GateError, ModelError, OutputError, UsageError
from hrkd_cli.events import Note
from hrkd_cli.onnx_export import gate, recipe_search
from hrkd_cli.onnx_export.recipes import apply_recipe
from tiny_folder import write_model

INT8, FP32, RECORD, STORED = "model_quantized.onnx", "model.onnx", "export.json", "self_check.json"

# What is timed is not what is tested here.
export = functools.partial(hrkd_cli.export, latency=False)


def listed(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def raising(error):
    def stand_in(*args, **kwargs):
        raise error

    return stand_in


def test_fp32_alone_needs_no_data(student):
    (student / "hrkd.json").unlink()
    result = export(student)
    path = student / "onnx" / FP32
    assert listed(student / "onnx") == [RECORD, FP32, STORED]
    assert result.to_json() == {
        "files": [{"path": str(path), "precision": "fp32", "bytes": path.stat().st_size}],
        "quantized_ops": {},
        "bytes_by_part": result.bytes_by_part,
        "gate": None,
    }


def test_int8_beside_fp32(student):
    result = export(student, int8=True, max_drop=50)
    assert listed(student / "onnx") == [RECORD, FP32, INT8, STORED]
    assert [(f.path, f.precision) for f in result.files] == [
        (str(student / "onnx" / FP32), "fp32"),
        (str(student / "onnx" / INT8), "int8"),
    ]
    assert all(
        f.bytes == (student / "onnx" / name).stat().st_size for f, name in zip(result.files, (FP32, INT8), strict=True)
    )
    assert result.quantized_ops == {"MatMulInteger": 14, "Gather": 3}
    # What the gate measured is what eval finds: the student makes no mistake on this data.
    int8 = evaluate([student / "onnx"], data=student.parent / "dev.csv", split="dev").models[0]
    drop = 100 * (1 - int8.average.accuracy)
    assert result.to_json()["gate"] == {"max_drop": 50, "drop": pytest.approx(drop, abs=1e-5), "passed": True}
    assert listed(student.parent) == sorted(["dev.csv", "student", *(f"student/{name}" for name in listed(student))])


def test_the_gate(student, other_weights):
    before = listed(student)
    with pytest.raises(GateError, match="more than --max-drop 5: nothing was written") as caught:
        export(student, int8=True, max_drop=5)
    assert listed(student) == before
    assert caught.value.exit_code == 3
    result = caught.value.result
    data = (student.parent / "dev.csv").read_text().splitlines()[1:]
    right = {"books": [], "dvd": []}
    shutil.copytree(student, student.parent / "worse")
    shutil.copytree(other_weights / "onnx", student.parent / "worse/onnx")
    predictor = Predictor(student.parent / "worse/onnx" / FP32)
    for text, label, domain in (line.split(",") for line in data):
        right[domain].append(predictor.predict([text], domain=domain)[0].label == label)
    accuracy = sum(sum(r) / len(r) for r in right.values()) / 2
    assert result["gate"] == {"max_drop": 5, "drop": pytest.approx(100 * (1 - accuracy), abs=1e-4), "passed": False}
    assert result["files"] == []
    # The same loss is let through when it is allowed, to the point.
    assert export(student, int8=True, max_drop=result["gate"]["drop"]).gate.passed


def test_safer_recipes_are_tried_where_the_first_fail(student, other_weights, monkeypatch):
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


def test_the_more_accurate_of_two_recipes_is_kept(student, other_weights, monkeypatch):
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


def test_what_is_lost_to_padding_is_pointed_out(student, monkeypatch):
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


def test_a_failed_gate_leaves_other_files_alone(student, other_weights):
    export(student)
    (student / "onnx/model_fp16.onnx").write_bytes(b"another export's")
    kept = (student / "onnx" / FP32).read_bytes()
    with pytest.raises(GateError) as caught:
        export(student, int8=True, max_drop=1)
    assert listed(student / "onnx") == [RECORD, FP32, "model_fp16.onnx", STORED]
    assert (student / "onnx" / FP32).read_bytes() == kept
    assert [f["precision"] for f in caught.value.result["files"]] == ["fp32"]


def test_int8_is_added_to_an_fp32_file_that_is_the_students(student):
    export(student)
    stamp = (student / "onnx" / FP32).stat().st_mtime_ns
    seen = []
    result = export(student, int8=True, max_drop=50, on_event=seen.append)
    assert (student / "onnx" / FP32).stat().st_mtime_ns == stamp
    assert [f.precision for f in result.files] == ["fp32", "int8"]
    assert any("is kept" in event.text for event in seen if isinstance(event, Note))


def test_an_fp32_file_of_another_model_is_not_built_on(student, tmp_path):
    other = write_model(tmp_path / "other", seed=9)
    export(other)
    shutil.copytree(other / "onnx", student / "onnx")
    with pytest.raises(OutputError, match="is not this student's"):
        export(student, int8=True, max_drop=50)
    assert listed(student / "onnx") == [RECORD, FP32, STORED]
    export(student, int8=True, max_drop=50, force=True)
    assert Predictor(student / "onnx" / FP32).predict(["a"])[0].scores == pytest.approx(
        Predictor(student).predict(["a"])[0].scores, abs=1e-4
    )


def test_what_exists_is_refused_without_force(student):
    export(student, int8=True, max_drop=50)
    for options in ({}, {"int8": True, "max_drop": 50}):
        with pytest.raises(OutputError, match="exists already; replace it with --force"):
            export(student, **options)
    seen = []
    export(student, force=True, on_event=seen.append)
    assert [e.text for e in seen if isinstance(e, Note) and e.warning] == [
        f"{INT8} in {student / 'onnx'}: of an earlier export, left as it is"
    ]


def test_an_output_of_its_own(student, tmp_path):
    out = tmp_path / "elsewhere/deep"
    result = export(student, int8=True, max_drop=50, out=out)
    # transformers 4 has one more tokenizer file.
    assert [name for name in listed(out) if name != "special_tokens_map.json"] == [
        "README.md",
        "config.json",
        "onnx",
        f"onnx/{RECORD}",
        f"onnx/{FP32}",
        f"onnx/{INT8}",
        f"onnx/{STORED}",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert result.files[1].path == str(out / "onnx" / INT8)
    assert "onnx" not in listed(student)
    texts = ["a good book", "not hot"]
    assert [p.label for p in Predictor(out / "onnx" / FP32).predict(texts)] == [
        p.label for p in Predictor(student).predict(texts)
    ]
    other = write_model(tmp_path / "other", labels={"news": ("sport", "weather")})
    shutil.rmtree(out / "onnx")
    with pytest.raises(OutputError, match="holds another model"):
        export(other, out=out)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError(errno.EACCES, "Permission denied"), "cannot be written .Permission denied"),
    ],
)
def test_a_disk_that_is_full(student, monkeypatch, error, said):
    def fails_after_writing(*args):
        apply_recipe(*args)
        raise error

    monkeypatch.setattr(recipe_search, "apply_recipe", fails_after_writing)
    before = listed(student.parent)
    with pytest.raises(OutputError, match=said):
        export(student, int8=True, out=student.parent / "a/b")
    assert listed(student.parent) == before


def test_a_write_cut_short_that_its_library_does_not_call_a_full_disk(student, monkeypatch):
    monkeypatch.setattr(recipe_search, "apply_recipe", raising(ModelError("the graph cannot be quantized (corrupt)")))
    with pytest.raises(ModelError, match="corrupt"):
        export(student, int8=True)
    monkeypatch.setattr("hrkd_cli.outputs.shutil.disk_usage", lambda _: type("Usage", (), {"free": 0}))
    with pytest.raises(OutputError, match="the disk is full"):
        export(student, int8=True)


def test_an_interrupt_leaves_nothing(student, monkeypatch):
    monkeypatch.setattr(recipe_search, "apply_recipe", raising(KeyboardInterrupt()))
    before = listed(student)
    with pytest.raises(KeyboardInterrupt):
        export(student, int8=True)
    assert listed(student) == before


def test_a_graph_that_differs_is_not_kept(student, monkeypatch):
    monkeypatch.setattr("hrkd_cli.onnx_export.trace.PARITY_TOLERANCE", -1.0)
    before = listed(student)
    with pytest.raises(ModelError, match="logits differ"):
        export(student)
    assert listed(student) == before


def test_an_architecture_that_cannot_be_traced(student, monkeypatch):
    monkeypatch.setattr("torch.onnx.export", raising(RuntimeError("unsupported operator\nmore lines")))
    with pytest.raises(ModelError, match="a bert model cannot be traced") as caught:
        export(student)
    assert "\n" not in str(caught.value)
    assert "onnx" not in listed(student)


def test_leftovers_of_a_killed_run_are_replaced(student):
    (student / "onnx.partial").mkdir()
    (student / "onnx.partial/model.onnx").write_bytes(b"half")
    export(student)
    assert "onnx.partial" not in listed(student)


def test_max_drop_must_be_a_number_of_points(student):
    with pytest.raises(UsageError, match="--max-drop: nan is not at least 0"):
        export(student, int8=True, max_drop=float("nan"))


def test_no_data_for_the_gate(student, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dev.csv").rename(tmp_path / "moved.csv")
    with pytest.raises(DataError, match="--data"):
        export(student, int8=True)
    assert export(student, int8=True, data="moved.csv", max_drop=50).gate.passed


def test_data_that_is_not_what_the_student_was_made_from(student, tmp_path):
    from hrkd_cli import prepare
    from hrkd_cli.data.dataset_folder import open_dataset

    prepare(tmp_path / "dev.csv", out=tmp_path / "dataset", dev=0.3)
    for fingerprint, warned in (("another", True), (open_dataset(tmp_path / "dataset").fingerprint, False)):
        record = {"data": {"path": "../dataset", "fingerprint": fingerprint}}
        (student / "hrkd.json").write_text(json.dumps(record))
        seen = []
        export(student, int8=True, max_drop=50, force=True, on_event=seen.append)
        assert any("fingerprint differs" in e.text for e in seen if isinstance(e, Note) and e.warning) is warned


def test_folders_that_are_no_student(tmp_path):
    with pytest.raises(ModelError, match="no such folder"):
        export(tmp_path / "absent")
    with pytest.raises(ModelError, match=r"no config\.json"):
        export(tmp_path)


def test_nothing_reaches_the_terminal(student, capfd):
    with warnings.catch_warnings():
        # The libraries' warnings must be silenced by the export, not by the test runner.
        warnings.simplefilter("always")
        export(student, int8=True, max_drop=50)
    assert capfd.readouterr() == ("", "")
