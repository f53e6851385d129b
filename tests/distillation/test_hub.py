"""Models named by their hub id: fetched, taught, distilled; and the ways in which that fails."""

import json
import subprocess
import sys

from hub_server import hub_environment, serve_hub
from tiny import write_encoder, write_raw


def hrkd(env, cwd, *args):
    return subprocess.run(
        [sys.executable, "-m", "hrkd_cli", *args], env=env, cwd=cwd, capture_output=True, text=True, check=False
    )


def test_teacher_and_student_are_fetched_by_id(tmp_path):
    encoder = write_encoder(tmp_path / "encoder", layers=2)
    student = write_encoder(tmp_path / "student", layers=1, seed=1)
    raw = write_raw(tmp_path / "raw", rows=40)
    with serve_hub({"acme/tiny-bert": encoder, "acme/tiny-student": student}) as url:
        env = hub_environment(url, tmp_path / "hf")
        options = ["--data", str(raw), "--teacher-epochs", "1", "--epochs", "1", "--max-length", "16"]
        args = ["--teacher", "acme/tiny-bert", "--student", "acme/tiny-student", "--allow-weak-teacher", "--json"]
        done = hrkd(env, tmp_path, "distill", *args, *options)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["out"] == "hrkd-out/student"
        record = json.loads((tmp_path / "hrkd-out" / "student" / "hrkd.json").read_text())
        assert record["models"]["teacher"]["name"] == "hrkd-out/teacher"
        record = json.loads((tmp_path / "hrkd-out" / "teacher" / "hrkd.json").read_text())
        assert record["models"]["start"]["name"] == "acme/tiny-bert"
        config = json.loads((tmp_path / "hrkd-out" / "student" / "config.json").read_text())
        assert config["num_hidden_layers"] == 1

        gone = hrkd(env, tmp_path, "teach", "--model", "acme/no-such", "--data", str(raw), "--out", "t")
    assert (gone.returncode, gone.stdout) == (1, "")
    assert gone.stderr == "hrkd teach: model acme/no-such: no such folder here and no such model on the hub\n"


def test_a_hub_out_of_reach_is_one_line(tmp_path):
    raw = write_raw(tmp_path / "raw", rows=40)
    env = hub_environment("http://127.0.0.1:9", tmp_path / "hf")
    done = hrkd(env, tmp_path, "teach", "--model", "acme/tiny-bert", "--data", str(raw), "--out", "t")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "the hub cannot be reached; give a local folder" in done.stderr
