import errno
import json
import shutil
import warnings

import numpy as np
import pytest

from exporting import FP32, INT8, export, list_files
from hrkd_cli import Predictor, evaluate, prepare
from hrkd_cli.errors import DataError, GateError, ModelError, OutputError, UsageError
from hrkd_cli.events import ExportStarted, Note
from hrkd_cli.models.fingerprint import with_calibration
from hrkd_cli.onnx_export import recipe_search
from hrkd_cli.onnx_export.export_record import read_record
from hrkd_cli.onnx_export.recipes import apply_recipe
from hrkd_cli.outputs import locked_folder
from hrkd_cli.predict.selfcheck import self_check
from tiny_folder import write_model

RECORD, SELF_CHECK, FP16 = "export.json", "self_check.json", "model_fp16.onnx"


def raising(error):
    def stand_in(*args, **kwargs):
        raise error

    return stand_in


def read_calibration(folder):
    return json.loads((folder / "config.json").read_text())["hrkd"].get("calibration")


def copy_weights(source, target):
    shutil.copy(source / "model.safetensors", target)


def test_fp32_alone_needs_no_data(student):
    (student / "hrkd.json").unlink()
    result = export(student)
    path = student / "onnx" / FP32
    assert list_files(student / "onnx") == [RECORD, FP32, SELF_CHECK]
    assert result.to_json() == {
        "files": [{"path": str(path), "precision": "fp32", "bytes": path.stat().st_size}],
        "quantized_ops": {},
        "bytes_by_part": result.bytes_by_part,
        "gate": None,
    }


def test_data_that_does_not_exist_is_refused_even_if_it_is_not_needed(student):
    with pytest.raises(DataError, match=r"'./nope': no such file or folder"):
        export(student, data="./nope")
    assert "onnx" not in list_files(student)


def test_int8_is_written_next_to_fp32(student):
    result = export(student, int8=True, max_drop=50)
    assert list_files(student / "onnx") == [RECORD, FP32, INT8, SELF_CHECK]
    assert [(f.path, f.precision) for f in result.files] == [
        (str(student / "onnx" / FP32), "fp32"),
        (str(student / "onnx" / INT8), "int8"),
    ]
    assert all(
        f.bytes == (student / "onnx" / name).stat().st_size for f, name in zip(result.files, (FP32, INT8), strict=True)
    )
    assert result.quantized_ops == {"MatMulInteger": 14, "Gather": 3}
    # The gate and eval measure the same drop; the student makes no mistake on this data.
    int8 = evaluate([student / "onnx"], data=student.parent / "dev.csv", split="dev").models[0]
    drop = 100 * (1 - int8.average.accuracy)
    assert result.to_json()["gate"] == {"max_drop": 50, "drop": pytest.approx(drop, abs=1e-5), "passed": True}
    assert list_files(student.parent) == sorted(
        ["dev.csv", "student", *(f"student/{name}" for name in list_files(student))]
    )


def test_a_failed_gate_leaves_other_files_alone(student, other_weights):
    export(student)
    (student / "onnx/model_fp16.onnx").write_bytes(b"another export's")
    kept = (student / "onnx" / FP32).read_bytes()
    with pytest.raises(GateError) as caught:
        export(student, int8=True, max_drop=1)
    assert list_files(student / "onnx") == [RECORD, FP32, FP16, SELF_CHECK]
    assert (student / "onnx" / FP32).read_bytes() == kept
    assert [f["precision"] for f in caught.value.result["files"]] == ["fp32"]


def test_int8_is_added_to_an_fp32_file_that_is_the_students(student):
    export(student)
    stamp = (student / "onnx" / FP32).stat().st_mtime_ns
    events = []
    result = export(student, int8=True, max_drop=50, on_event=events.append)
    assert (student / "onnx" / FP32).stat().st_mtime_ns == stamp
    assert [f.precision for f in result.files] == ["fp32", "int8"]
    assert any("is kept" in event.text for event in events if isinstance(event, Note))


def test_an_fp32_file_of_another_model_is_refused(student, tmp_path):
    other = write_model(tmp_path / "other", seed=9)
    export(other)
    shutil.copytree(other / "onnx", student / "onnx")
    with pytest.raises(OutputError, match="is not this student's"):
        export(student, int8=True, max_drop=50)
    assert list_files(student / "onnx") == [RECORD, FP32, SELF_CHECK]
    export(student, int8=True, max_drop=50, force=True)
    assert Predictor(student / "onnx" / FP32).predict(["a"])[0].scores == pytest.approx(
        Predictor(student).predict(["a"])[0].scores, abs=1e-4
    )


def test_an_existing_file_is_refused_without_force(student):
    export(student, int8=True, max_drop=50)
    for options in ({}, {"int8": True, "max_drop": 50}):
        with pytest.raises(OutputError, match="exists already; replace it with --force"):
            export(student, **options)


def test_force_leaves_other_files_with_their_records_if_they_are_the_students(student):
    export(student, int8=True, max_drop=50)
    record, calibration = read_record(student / "onnx")[INT8], read_calibration(student)[INT8]
    events = []
    export(student, fp16=True, max_drop=50, force=True, on_event=events.append)
    assert not [e.text for e in events if isinstance(e, Note) and e.warning]
    assert read_record(student / "onnx")[INT8] == record
    assert read_calibration(student)[INT8] == calibration
    assert self_check(student)[0].passed
    copy_weights(write_model(student.parent / "other", seed=9), student)
    export(student, force=True, on_event=events.append)
    assert [e.text for e in events if isinstance(e, Note) and e.warning] == [
        f"{FP16}, {INT8} in {student / 'onnx'}: left from an earlier export, unchanged; until deleted, the self-check "
        "fails"
    ]
    assert set(read_record(student / "onnx")) == {FP32}
    assert read_calibration(student) is None
    with pytest.raises(ModelError, match=rf"not exported with the other files: \S*{FP16}, \S*{INT8};"):
        self_check(student)
    for name in (FP16, INT8):
        (student / "onnx" / name).unlink()
    assert [entry.file for entry in self_check(student)] == [FP32]


def test_out_gets_graphs_configuration_and_tokenizer(student, tmp_path):
    out = tmp_path / "elsewhere/deep"
    for name in ("eval.json", "notes.txt"):  # evaluation quotes texts
        (student / name).write_text("{}")
    (student / "tokenizer.model").write_text("of a slow tokenizer")
    result = export(student, int8=True, max_drop=50, out=out)
    # transformers 4 writes one more tokenizer file.
    assert [name for name in list_files(out) if name != "special_tokens_map.json"] == [
        "README.md",
        "config.json",
        "onnx",
        f"onnx/{RECORD}",
        f"onnx/{FP32}",
        f"onnx/{INT8}",
        f"onnx/{SELF_CHECK}",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
    ]
    assert result.files[1].path == str(out / "onnx" / INT8)
    assert "onnx" not in list_files(student)
    texts = ["a good book", "not hot"]
    assert [p.label for p in Predictor(out / "onnx" / FP32).predict(texts)] == [
        p.label for p in Predictor(student).predict(texts)
    ]
    other = write_model(tmp_path / "other", labels={"news": ("sport", "weather")})
    shutil.rmtree(out / "onnx")
    with pytest.raises(OutputError, match=r"holds the config.json of another model"):
        export(other, out=out)


def test_another_model_with_weights_is_not_replaced_by_force_either(student, tmp_path):
    other = write_model(tmp_path / "other", labels={"news": ("sport", "weather")})
    before = (other / "config.json").read_bytes()
    with pytest.raises(
        OutputError, match=r"other: holds another model .config.json differs.; write elsewhere with --out$"
    ):
        export(student, out=other, force=True)
    assert (other / "config.json").read_bytes() == before
    (other / "model.safetensors").unlink()
    with pytest.raises(OutputError, match=r"of another model; write elsewhere with --out, or replace it with --force"):
        export(student, out=other)
    export(student, out=other, force=True)


@pytest.mark.parametrize("name", ["README.md", "tokenizer.json", "hrkd_runtime.pyz"])
def test_other_files_in_out_are_not_replaced(student, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(OutputError, match=f"{name}: exists already; replace it with --force"):
        export(student, out=tmp_path)
    export(student, out=tmp_path, force=True)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError(errno.EACCES, "Permission denied"), "cannot be written .Permission denied"),
    ],
)
def test_a_write_error_is_explained_and_leaves_nothing(student, monkeypatch, error, message):
    def fail_after_writing(*args):
        apply_recipe(*args)
        raise error

    monkeypatch.setattr(recipe_search, "apply_recipe", fail_after_writing)
    before = list_files(student.parent)
    with pytest.raises(OutputError, match=message):
        export(student, int8=True, out=student.parent / "a/b")
    assert list_files(student.parent) == before


def test_a_library_error_on_a_full_disk_is_reported_as_a_full_disk(student, monkeypatch):
    monkeypatch.setattr(recipe_search, "apply_recipe", raising(ModelError("the graph cannot be quantized (corrupt)")))
    with pytest.raises(ModelError, match="corrupt"):
        export(student, int8=True)

    def fill_disk(*_args):
        monkeypatch.setattr("hrkd_cli.outputs.shutil.disk_usage", lambda _: type("Usage", (), {"free": 0}))
        raise RuntimeError("cannot serialize")

    monkeypatch.setattr(recipe_search, "apply_recipe", fill_disk)
    with pytest.raises(OutputError, match="the disk is full"):
        export(student, int8=True)


def test_an_interrupt_leaves_nothing(student, monkeypatch):
    monkeypatch.setattr(recipe_search, "apply_recipe", raising(KeyboardInterrupt()))
    before = list_files(student)
    with pytest.raises(KeyboardInterrupt):
        export(student, int8=True)
    assert list_files(student) == before


def test_a_graph_with_other_logits_is_not_kept(student, monkeypatch):
    monkeypatch.setattr("hrkd_cli.onnx_export.trace.PARITY_TOLERANCE", -1.0)
    before = list_files(student)
    with pytest.raises(ModelError, match="logits differ"):
        export(student)
    assert list_files(student) == before


def test_an_architecture_that_cannot_be_traced_is_an_error_of_one_line(student, monkeypatch):
    monkeypatch.setattr("torch.onnx.export", raising(RuntimeError("unsupported operator\nmore lines")))
    with pytest.raises(ModelError, match="bert models cannot be traced") as caught:
        export(student)
    assert "\n" not in str(caught.value)
    assert "onnx" not in list_files(student)


def test_leftovers_of_a_killed_run_are_replaced(student):
    work = student / "onnx.partial"
    with locked_folder(work):
        (work / "model.onnx").write_bytes(b"half")
        with pytest.raises(OutputError, match=r"onnx.partial is being written by another hrkd; wait for it"):
            export(student)
        assert (work / "model.onnx").read_bytes() == b"half"
    export(student)
    assert "onnx.partial" not in list_files(student)


def test_max_drop_must_be_a_number_of_points(student):
    with pytest.raises(UsageError, match="--max-drop: nan is not at least 0"):
        export(student, int8=True, max_drop=float("nan"))


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match="no such folder"):
        export(tmp_path / "absent")
    with pytest.raises(ModelError, match=r"no config\.json"):
        export(tmp_path)


def test_nothing_reaches_the_terminal(student, capfd):
    with warnings.catch_warnings():
        # The export must silence the libraries' warnings, not the test runner.
        warnings.simplefilter("always")
        export(student, int8=True, max_drop=50)
    assert capfd.readouterr() == ("", "")


def test_a_format_is_added_to_existing_ones(student):
    export(student, int8=True, max_drop=100)
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in (student / "onnx").glob("*.onnx")}
    export(student, fp16=True, int4=True, max_drop=100)
    for name, state in before.items():
        path = student / "onnx" / name
        assert (path.read_bytes(), path.stat().st_mtime_ns) == state
    record = json.loads((student / "onnx/export.json").read_text())["files"]
    assert set(record) == {"model.onnx", "model_quantized.onnx", FP16, "model_q4.onnx"}
    assert record["model_quantized.onnx"]["tries"]
    card = (student / "README.md").read_text()
    assert card.count("## ONNX files") == 1
    assert all(f"`onnx/{name}`" in card for name in record)


def test_every_exported_file_is_calibrated_on_its_own_dev_logits(student):
    config = (student / "config.json").read_bytes()
    export(student, int8=True, max_drop=100)
    entries = read_calibration(student)
    assert set(entries) == {FP32, INT8}
    assert entries[FP32]["temperatures"] != entries[INT8]["temperatures"]
    assert self_check(student)[0].passed
    int8 = dict(entries)[INT8]
    # Another format leaves the calibration of the files that stay.
    export(student, fp16=True, max_drop=100)
    assert set(read_calibration(student)) == {FP32, INT8, FP16}
    assert read_calibration(student)[INT8] == int8
    assert len(self_check(student)) == 3
    assert with_calibration(student / "config.json", {}) == config
    # Predictions use the temperatures of their file, and torch weights those of fp32.
    for path, name in (("onnx/" + INT8, INT8), ("onnx/" + FP32, FP32), ("", FP32)):
        predictor = Predictor(student / path)
        [logits], [prediction] = predictor.logits(["a cold pan"]), predictor.predict(["a cold pan"], domain="dvd")
        columns = list(predictor.spec.heads.columns["dvd"])
        scaled = np.exp(logits[columns] / entries[name]["temperatures"]["dvd"])
        np.testing.assert_allclose(list(prediction.scores.values()), scaled / scaled.sum(), rtol=1e-5)


def test_without_dev_data_nothing_is_calibrated_and_a_note_says_so(student, tmp_path):
    config, events = (student / "config.json").read_bytes(), []
    export(student, on_event=events.append)
    assert (student / "config.json").read_bytes() == config
    note = "no dev rows, so probabilities are not calibrated; name the student's data with --data"
    assert [event.text for event in events if isinstance(event, Note)].count(note) == 1
    # The prepared dataset that the student was made from is used even if only fp32 is written.
    fingerprint = prepare(tmp_path / "dev.csv", out=tmp_path / "data", dev=0.5).fingerprint
    for recorded, files in (("another", None), (fingerprint, {FP32})):
        record = {"data": {"path": "../data", "fingerprint": recorded}}
        (student / "hrkd.json").write_text(json.dumps(record))
        export(student, force=True)
        assert (read_calibration(student) and set(read_calibration(student))) == files
    # Without data, that of a file with the same logits stays, but not that of other weights.
    (student / "hrkd.json").unlink()
    export(student, force=True)
    assert set(read_calibration(student)) == {FP32}
    copy_weights(write_model(tmp_path / "other", seed=9), student)
    export(student, force=True)
    assert read_calibration(student) is None


def test_out_has_the_calibration_of_its_own_files(student, tmp_path):
    export(student, int8=True, max_drop=100)
    config = (student / "config.json").read_bytes()
    export(student, fp16=True, max_drop=100, out=tmp_path / "out")
    assert set(read_calibration(tmp_path / "out")) == {FP32, FP16}
    export(student, int4=True, max_drop=100, out=tmp_path / "out")  # not another model
    assert set(read_calibration(tmp_path / "out")) == {FP32, FP16, "model_q4.onnx"}
    assert self_check(tmp_path / "out")[0].passed
    assert (student / "config.json").read_bytes() == config


def test_a_single_domain_export_is_calibrated_anew(student):
    export(student, int8=True, max_drop=100)
    out = student.parent / "student-dvd"
    export(student, domain="dvd", int8=True, max_drop=100)
    own, whole = read_calibration(out)[FP32], read_calibration(student)[FP32]
    assert (own["rows"], whole["rows"]) == (40, 80)
    assert list(own["temperatures"]) == ["dvd"]
    assert self_check(out)[0].passed
    # Without dev data, it has the student's temperature; its thresholds were those of all domains.
    (student / "hrkd.json").unlink()
    export(student, domain="dvd", force=True)
    entry = read_calibration(out)[FP32]
    assert entry["temperatures"]["dvd"] == whole["temperatures"]["dvd"]
    assert entry["thresholds"] == {}


def test_a_failed_gate_and_an_interrupt_leave_the_configuration_alone(student, other_weights, monkeypatch):
    export(student, fp16=True, max_drop=100)
    config = (student / "config.json").read_bytes()
    with pytest.raises(GateError):
        export(student, int8=True, max_drop=1)
    assert (student / "config.json").read_bytes() == config
    monkeypatch.setattr("hrkd_cli.onnx_export.export.write_cases", raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        export(student, int8=True, max_drop=100)
    assert (student / "config.json").read_bytes() == config
    assert self_check(student)[0].passed


def test_runtime_after_an_export_writes_only_the_runtime(student):
    export(student, int8=True, max_drop=100)
    before = {path: path.stat().st_mtime_ns for path in student.rglob("*") if path.is_file()}
    events = []
    result = export(student, runtime=True, on_event=events.append)
    new = {path.name for path in student.rglob("*") if path.is_file() and before.get(path) != path.stat().st_mtime_ns}
    assert new == {"hrkd_runtime.pyz"}
    assert events == [ExportStarted({})]
    assert [(file.path, file.precision) for file in result.files] == [
        (str(student / "onnx/model.onnx"), "fp32"),
        (str(student / "onnx/model_quantized.onnx"), "int8"),
    ]


def test_runtime_after_an_export_says_that_the_record_is_damaged(student):
    export(student)
    record = student / "onnx" / RECORD
    content = json.loads(record.read_text())
    del content["files"][FP32]["bytes"]
    record.write_text(json.dumps(content))
    with pytest.raises(
        ModelError, match=r"export\.json: files\.model\.onnx\.bytes is missing; it was edited or damaged"
    ):
        export(student, runtime=True)
    assert not (student / "hrkd_runtime.pyz").exists()
    export(student, runtime=True, force=True)
    assert set(read_record(student / "onnx")) == {FP32}
