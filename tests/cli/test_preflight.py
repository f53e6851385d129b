"""A dry run: the plan of the run itself, without a trace of it."""

import json

import pytest

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
