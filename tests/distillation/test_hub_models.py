"""Teacher and student named by hub ids, and what happens if they cannot be fetched."""

import json

from hub_server import hub_environment, serve_hub
from processes import finish, start
from tiny import write_encoder, write_raw


def test_teacher_and_student_are_fetched_by_id(tmp_path):
    encoder = write_encoder(tmp_path / "encoder", layers=2)
    student = write_encoder(tmp_path / "student", layers=1, seed=1)
    raw = write_raw(tmp_path / "raw", rows=40)
    with serve_hub({"acme/tiny-bert": encoder, "acme/tiny-student": student}) as url:
        env = hub_environment(url, tmp_path / "hf")
        options = ["--data", str(raw), "--teacher-epochs", "1", "--epochs", "1", "--max-length", "16"]
        args = ["--teacher", "acme/tiny-bert", "--student", "acme/tiny-student", "--allow-weak-teacher", "--json"]
        out, _ = finish(start("distill", *args, *options, cwd=tmp_path, env=env))
        assert json.loads(out)["out"] == "hrkd-out/student"
        record = json.loads((tmp_path / "hrkd-out" / "student" / "hrkd.json").read_text())
        assert record["models"]["teacher"]["name"] == "hrkd-out/teacher"
        record = json.loads((tmp_path / "hrkd-out" / "teacher" / "hrkd.json").read_text())
        assert record["models"]["start"]["name"] == "acme/tiny-bert"
        config = json.loads((tmp_path / "hrkd-out" / "student" / "config.json").read_text())
        assert config["num_hidden_layers"] - config.get("mean_pooling_layer", False) == 1

        # The baseline on the teacher's encoder is from the cache; a model folder is no reason to download one.
        _, err = finish(start("eval", "hrkd-out/student", "--floor", cwd=tmp_path, env=env))
        assert "no baseline" not in err
        elsewhere = hub_environment(url, tmp_path / "empty")
        _, err = finish(start("eval", "hrkd-out/student", "--floor", cwd=tmp_path, env=elsewhere))
        assert "frozen encoder: model acme/tiny-bert: not on this machine; download it with: hf download" in err
        assert not list((tmp_path / "empty").rglob("*.safetensors"))

        gone = start("teach", "--model", "acme/no-such", "--data", raw, "--out", "t", cwd=tmp_path, env=env)
        out, err = finish(gone, code=1)
    assert out == ""
    assert err == "hrkd teach: model acme/no-such: no such folder here and no such model on the hub\n"


def test_an_unreachable_hub_is_a_one_line_error(tmp_path):
    raw = write_raw(tmp_path / "raw", rows=40)
    env = hub_environment("http://127.0.0.1:9", tmp_path / "hf")
    done = start("teach", "--model", "acme/tiny-bert", "--data", raw, "--out", "t", cwd=tmp_path, env=env)
    _, err = finish(done, code=1)
    assert err.count("\n") == 1
    assert "the hub cannot be reached; give a local folder" in err
