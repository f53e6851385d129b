"""Uploads to a stand-in of the hub."""

import json
import subprocess
import sys

import pytest

from hrkd_cli.errors import OutputError
from hrkd_cli.hub_upload import check_pushable
from hub_server import hub_environment, serve_hub
from tiny_folder import write_model
from valid_inputs import write_dataset

TOKEN = "hf_secret"
LOG_IN = "log in with: hf auth login (or set HF_TOKEN to a token with write access)"


def write_student(folder):
    write_model(folder)
    (folder / "hrkd.json").write_text('{"stage": "distill"}')
    (folder / "onnx").mkdir()
    for name in ("model.onnx", "model_q4.onnx"):
        (folder / "onnx" / name).write_text(name)
    (folder / "README.md").write_text("# A student\n")
    for name in ("secret-notes.txt", "eval.json", "report.html"):
        (folder / name).write_text("mine")
    (folder / "checkpoint-5").mkdir()
    (folder / "checkpoint-5/checkpoint.json").write_text("{}")
    return folder


@pytest.fixture
def push(tmp_path):
    with serve_hub({}, tmp_path / "hub", TOKEN) as url:

        def run(*words, token=TOKEN):
            environment = hub_environment(url, tmp_path / "hf") | ({"HF_TOKEN": token} if token else {})
            command = [sys.executable, "-m", "hrkd_cli", "push", *map(str, words)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            assert TOKEN not in done.stdout + done.stderr
            return done.returncode, done.stdout, done.stderr.splitlines()[-1]

        yield run


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_model_is_uploaded_without_foreign_files_and_follows_its_folder(tmp_path, push):
    student, remote = write_student(tmp_path / "student"), tmp_path / "hub/acme/small"
    code, out, _ = push(student, "acme/small", "--json")
    assert code == 0
    expected = files(student) - {"secret-notes.txt", "eval.json", "report.html", "checkpoint-5/checkpoint.json"}
    assert files(remote) == set(json.loads(out)["files"]) == expected
    assert (remote / "model.safetensors").read_bytes() == (student / "model.safetensors").read_bytes()
    (student / "onnx/model_q4.onnx").unlink()
    added = {"by-hand.md", "onnx/model_bnb4.onnx", "onnx/sub/model.onnx", "tokenizer_notes/a.md", "best/a/b/c.bin"}
    for name in added:
        (remote / name).parent.mkdir(parents=True, exist_ok=True)
        (remote / name).write_text("added on the hub")
    code, out, _ = push(student, "acme/small")
    assert (code, out.endswith("/acme/small\n")) == (0, True)
    assert files(remote) == expected - {"onnx/model_q4.onnx"} | added


def test_a_dataset_is_private_if_asked_and_never_silently_public(tmp_path, push):
    write_dataset(tmp_path / "dataset")
    remote = tmp_path / "hub/datasets/acme/reviews"
    assert push(tmp_path / "dataset", "acme/reviews", "--private")[0] == 0
    assert files(remote) == files(tmp_path / "dataset")
    (remote / "dataset.json").write_text("old")
    (tmp_path / "dataset/data/books").rename(tmp_path / "dataset/data/home [garden]")  # not a pattern
    assert push(tmp_path / "dataset", "acme/reviews", "--private")[0] == 0
    assert (remote / "dataset.json").read_text() == (tmp_path / "dataset/dataset.json").read_text()
    assert files(remote) == files(tmp_path / "dataset")
    student = write_student(tmp_path / "student")
    assert push(student, "acme/open")[0] == 0
    (student / "README.md").write_text("# Confidential\n")
    text = "hrkd push: acme/open: exists and is public; make it private on the hub first, or leave out --private"
    assert push(student, "acme/open", "--private")[::2] == (1, text)
    assert (tmp_path / "hub/acme/open/README.md").read_text() == "# A student\n"


def test_errors_of_the_hub_are_one_line_with_the_way_to_log_in(tmp_path, push):
    student = write_student(tmp_path / "student")
    assert push(student, "acme/small", token=None) == (1, "", f"hrkd push: acme/small: no token for the hub; {LOG_IN}")
    code, out, line = push(student, "acme/small", token="hf_wrong")
    assert (code, out, "401" in line, line.endswith(LOG_IN)) == (1, "", True, True)
    assert push(student, "a/b/c")[0] == 2


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("none", "no such folder"),
        ("student.partial", "not a model or dataset folder that hrkd has finished"),
        ("student/onnx", "this is the onnx folder of a model; push the folder above it"),
    ],
)
def test_other_folders_are_refused(name, problem, tmp_path):
    for file in ("student.partial/metrics.jsonl", "student/onnx/export.json"):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_text("{}")
    with pytest.raises(OutputError, match=f"{name}: {problem}"):
        check_pushable(tmp_path / name)


def test_a_single_domain_export_is_a_model(tmp_path):
    (tmp_path / "onnx").mkdir()
    for file in ("config.json", "onnx/export.json"):
        (tmp_path / file).write_text("{}")
    assert check_pushable(tmp_path) == "model"
