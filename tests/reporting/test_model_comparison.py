"""The models that a report compares: which are shown, under which name, with which numbers."""

import json

from fake_runs import dev_line, evaluated, write_evaluation, write_export, write_lines, write_record, write_run
from hrkd_cli.models.fingerprint import model_fingerprint
from hrkd_cli.reporting.model_comparison import compare_models
from hrkd_cli.reporting.run import Run

INT8 = {"kind": "onnx", "precision": "int8", "file": "model_quantized.onnx"}
TIME = {"latency_ms": {"p50": 3.0, "tokens": 11, "threads": 2}}


def write_student(folder):
    """A student next to its teacher, with the dev accuracy of baselines."""
    teacher = write_record(write_lines(folder / "the-teacher", []), stage="teach")
    student = write_export(write_run(folder / "student"))
    best = {"step": 1, "dev": dev_line(1, 0.8, 0.9, best=True)["dev"]}
    baselines = {"tf-idf + logistic regression": 0.6, "frozen bert + logistic regression": 0.7}
    for path, results in ((teacher, {"best": best}), (student, {"baselines": baselines})):
        record = json.loads((path / "hrkd.json").read_text())
        record["results"] |= results
        (path / "hrkd.json").write_text(json.dumps(record))
    (teacher / "model.safetensors").write_bytes(b"12345")
    (teacher / "config.json").write_text("{}")
    record = json.loads((student / "hrkd.json").read_text())
    record["models"]["teacher"]["fingerprint"] = model_fingerprint(teacher)
    (student / "hrkd.json").write_text(json.dumps(record))
    return student


def test_a_teacher_that_has_changed_since_is_not_shown(tmp_path):
    run = write_student(tmp_path)
    (tmp_path / "the-teacher/model.safetensors").write_bytes(b"54321")
    assert "teacher" not in columns(run, average)


def columns(run, value):
    return {model.name: value(model) for model in compare_models(Run(run)).models}


def average(model):
    return round(model.scores["average"]["accuracy"], 3) if model.scores else None


def test_without_an_evaluation_all_models_have_dev_scores(tmp_path):
    run = write_student(tmp_path)
    names = ["teacher", "student", "int8", "linear on words", "linear on frozen encoder"]
    assert list(columns(run, average)) == names
    assert list(columns(run, average).values()) == [0.85, 0.8, 0.795, 0.6, 0.7]
    assert columns(run, lambda model: model.bytes)["teacher"] == 5
    compared = compare_models(Run(run))
    assert (compared.evaluated, compared.main, compared.domains) == (False, None, ["books", "dvd"])


def test_evaluated_models_have_test_and_dev_scores_and_the_others_dev_scores(tmp_path):
    run = write_student(tmp_path)
    write_evaluation(run, evaluated("../the-teacher", 0.9, **TIME), evaluated(".", 0.88))
    assert columns(run, average) == {
        "teacher": 0.9, "student": 0.88, "int8": None, "linear on words": None, "linear on frozen encoder": None,
    }  # fmt: skip
    assert columns(run, lambda model: round(model.dev or 0, 3))["int8"] == 0.795
    compared = compare_models(Run(run))
    assert compared.main.name == "student"
    assert compared.advice == "hrkd eval --floor"
    assert compared.latency["tokens"] == 11


def test_the_advice_names_what_is_missing(tmp_path):
    run = write_student(tmp_path)
    entries = [evaluated("../the-teacher", 0.9), evaluated(".", 0.88), evaluated("onnx", 0.88, **INT8, bytes=2e6)]
    floors = [evaluated(f"{name} + logistic regression", 0.7, kind="floor") for name in ("tf-idf", "frozen bert")]
    write_evaluation(run, *entries, *floors)
    assert compare_models(Run(run)).advice == "hrkd eval --latency"
    write_evaluation(run, entries[0] | TIME, *entries[1:], *floors)
    assert compare_models(Run(run)).advice == ""
    write_evaluation(run, entries[0] | TIME, entries[1], *floors)
    assert compare_models(Run(run)).advice == "hrkd eval"


def test_an_exported_file_that_was_replaced_since_is_not_shown_as_evaluated(tmp_path):
    run = write_student(tmp_path)
    for size, shown in ((2e6, 0.86), (1e6, None)):
        write_evaluation(run, evaluated(".", 0.88), evaluated("onnx", 0.86, **INT8, bytes=size))
        assert columns(run, average)["int8"] == shown


def test_other_models_are_named_by_their_folder(tmp_path):
    run = write_student(tmp_path)
    others = [evaluated("../other", 0.7), evaluated("../other/onnx", 0.7, **INT8)]
    write_evaluation(run, evaluated(".", 0.88), *others)
    assert list(columns(run, average))[:3] == ["student", "other", "other/onnx int8"]
    twice = [evaluated(".", 0.88), evaluated("../a/other", 0.7), evaluated("../b/other", 0.7)]
    write_evaluation(run, *twice)
    assert list(columns(run, average))[:3] == ["student", "../a/other", "../b/other"]


def test_a_damaged_evaluation_is_ignored(tmp_path):
    run = write_evaluation(write_student(tmp_path), evaluated(".", 0.88))
    content = json.loads((run / "eval.json").read_text())
    content["models"][0]["domains"]["dvd"]["accuracy"] = "high"
    (run / "eval.json").write_text(json.dumps(content))
    assert not compare_models(Run(run)).evaluated
