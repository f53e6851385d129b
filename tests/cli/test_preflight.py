"""A dry run: the plan of the run itself, without a trace of it."""

import json
from pathlib import Path

import pytest

from hrkd_cli import outputs
from tiny_folder import with_wide_branch, write_model
from valid_inputs import ValidInputs, run_program, working_folder

WORDS = ["distill", "-q", "--teacher", "plain", "--data", "dataset", "--student", "1x32", "--allow-weak-teacher"]
WORDS += ["--epochs", "2", "--json"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    inputs = ValidInputs(tmp_path_factory.mktemp("valid"))
    for name in ("plain", "dataset", "encoder", "raw"):
        inputs.copy(name, folder)
    return folder


def test_it_shows_what_the_run_then_does_and_writes_nothing(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with working_folder(folder):
        code, out, err = run_program(*WORDS, "--dry-run", "--out", "student")
        assert (code, err.count("\n")) == (0, 1)  # the warning about the teacher
        assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
        plan = json.loads(out)
        assert run_program(*WORDS, "--out", "student")[0] == 0
    run = json.loads((folder / "student/hrkd.json").read_text())
    assert plan["steps"] == run["results"]["steps"]
    assert plan["domains"] == list(json.loads((folder / "student/config.json").read_text())["hrkd"]["domains"])
    assert 0 < (folder / "student/model.safetensors").stat().st_size - plan["bytes"] < 10_000  # the header
    assert (plan["epochs"], plan["batch_size"]) == (2, 8)
    assert plan["memory_bytes"] > 50e6
    assert plan["seconds"] > 0


def test_it_leaves_an_interrupted_run_alone(folder):
    (folder / "half.partial").mkdir()
    (folder / "half.partial/metrics.jsonl").write_text("kept\n")
    with working_folder(folder):
        assert run_program(*WORDS, "--dry-run", "--resume", "--out", "half")[0] == 0
    assert {path.name: path.read_text() for path in (folder / "half.partial").iterdir()} == {"metrics.jsonl": "kept\n"}


def test_the_table_has_no_raw_numbers(folder):
    with working_folder(folder):
        code, out, _ = run_program(*[word for word in WORDS if word != "--json"], "--dry-run", "--out", "other")
    assert code == 0
    assert out.startswith("Plan; nothing was written\ndomains")
    assert "books, dvd" in out


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("--data", "raw", "raw is not prepared yet; run hrkd prepare first"),
        ("--teacher", "encoder", "encoder is not fine-tuned yet; run hrkd teach first"),
    ],
)
def test_it_does_not_run_earlier_stages(folder, option, value, error):
    with working_folder(folder):
        found = run_program(*WORDS, "--dry-run", "--out", "other", option, value)
    assert found == (2, "", f"hrkd distill: --dry-run: {error} (see hrkd distill --help)\n")


EXPORT = ["export", "student", "-q", "--data", "dataset", "--no-latency"]
FORMATS = ["--fp16", "--int8", "--int8-static", "--int4", "--max-drop", "100"]


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """A student whose weights are much larger than its graph."""
    folder = tmp_path_factory.mktemp("export")
    inputs = ValidInputs(tmp_path_factory.mktemp("valid"))
    inputs.copy("dataset", folder)
    sizes = {"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 4096}
    write_model(folder / "encoder", initializer_range=0.02, **sizes)
    with_wide_branch(folder / "encoder", folder / "student", buckets=50_000)
    return folder


def test_the_plan_of_an_export_has_its_files_and_nothing_is_written(student):
    before = {path: path.stat().st_mtime_ns for path in student.rglob("*")}
    with working_folder(student):
        code, out, err = run_program(*EXPORT, *FORMATS, "--json", "--dry-run")
        assert (code, err) == (0, "")
        assert {path: path.stat().st_mtime_ns for path in student.rglob("*")} == before
        plan = json.loads(out)
        assert run_program(*EXPORT, *FORMATS)[::2] == (0, "")
        sizes = {f["path"]: f["bytes"] for f in plan["files"]}
        assert set(sizes) == {str(path) for path in Path("student/onnx").glob("*.onnx")}
        assert sizes == {path: pytest.approx(Path(path).stat().st_size, rel=0.03) for path in sizes}
        assert run_program(*EXPORT, "--int8", "--dry-run")[0] == 1  # it exists
    assert plan["recipes"] in ({"fp16": 1, "int8": n, "int8-static": 6, "int4": 4} for n in (5, 6))  # by CPU
    assert (plan["dev_rows"], plan["max_drop"]) == (8, 100)
    assert plan["max_seconds"] > plan["seconds"] > 5
    assert plan["disk_bytes"] == pytest.approx(sum(sizes.values()) + max(list(sizes.values())[1:]))
    assert plan["free_bytes"] > plan["disk_bytes"]


def test_the_plan_of_a_separate_folder_leaves_no_folder(student):
    with working_folder(student):
        code, out, _ = run_program(*EXPORT, "--domain", "books", "--dry-run")
    assert code == 0
    assert out.startswith("Plan; nothing was written\nstudent-books/onnx/model.onnx")
    assert {path.name for path in student.iterdir()} == {"dataset", "encoder", "student"}


def test_the_plan_of_a_trimmed_model_has_its_check_on_dev(student):
    with working_folder(student):
        code, out, _ = run_program(*EXPORT, "--trim-vocabulary", "--max-drop", "100", "--dry-run")
    assert code == 0
    assert "8 dev rows, at most 100 points lost" in out


def test_a_full_disk_ends_an_export_before_it_starts(student, monkeypatch):
    monkeypatch.setattr(outputs, "free_bytes", lambda _path: 1000)
    with working_folder(student):
        code, _, err = run_program(*EXPORT, "--out", "elsewhere")
    assert code == 1
    assert "elsewhere: the run needs about" in err


def test_the_plan_of_the_runtime_alone(student, monkeypatch):
    with working_folder(student):
        code, out, _ = run_program(*EXPORT, "--runtime", "--dry-run", "--out", "student")
    assert (code, (student / "student/hrkd_runtime.pyz").exists()) == (0, False)
    assert "hrkd_runtime.pyz" in out
