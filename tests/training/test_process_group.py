"""Several processes share a run: the same losses as one, and no hang when one of them is gone."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from hrkd_cli.cli.main import main
from hrkd_cli.errors import UsageError
from hrkd_cli.teaching.teach import teach
from hrkd_cli.training.collator import local_rows
from hrkd_cli.training.process_group import ProcessGroup
from processes import finish, start
from tiny import make_texts, write_encoder

SHARED = ("--max-length", "16", "--seed", "3", "--precision", "fp32", "--epochs", "2")
# Dropout draws other masks in other processes.
STILL = ("hidden_dropout_prob", "attention_probs_dropout_prob")


@pytest.fixture(scope="module")
def still_encoder(tmp_path_factory):
    folder = write_encoder(tmp_path_factory.mktemp("still") / "encoder", layers=4)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **dict.fromkeys(STILL, 0.0)}))
    return folder


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """Domains of 70, 31 and 20 rows; an odd number of rows in a step."""
    folder = tmp_path_factory.mktemp("uneven") / "data"
    folder.mkdir()
    for n, (domain, rows) in enumerate((("books", 70), ("music", 31), ("toys", 20))):
        texts, labels = make_texts(rows, n)
        lines = [f"{text} {i},{label}" for i, (text, label) in enumerate(zip(texts, labels, strict=True))]
        (folder / f"{domain}.csv").write_text("text,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return folder


def losses(folder):
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [r["losses"] for r in records if "losses" in r], [r["dev"] for r in records if "dev" in r]


def test_two_processes_reproduce_one(tmp_path, still_encoder, uneven, monkeypatch):
    words = ["--data", str(uneven), *SHARED]
    distil = [
        "distill", "--teacher", str(still_encoder), "--student", "2x32", "--teacher-epochs", "1", "--cache-teacher",
        "on", "--allow-weak-teacher", "--batch-size", "3", "--instance-weights", "meta-kd", *words,
    ]  # fmt: skip
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    monkeypatch.chdir(one)
    assert main(distil) == 0
    out, err = finish(start(*distil, "--processes", "2", "--json", cwd=two))
    assert json.loads(out)["out"] == "hrkd-out/student"  # one process speaks
    assert err.count("distill: done") == 1
    for stage in ("teacher", "student"):
        alone, together = (losses(base / "hrkd-out" / stage) for base in (one, two))
        assert len(alone[0]) == len(together[0]) > 5
        for a, b in zip(alone[0], together[0], strict=True):
            assert b == pytest.approx(a, rel=3e-5, abs=1e-8)  # the attention loss of a tiny model is 1e-6
        assert alone[1] == together[1]
    # torchrun starts the same program from outside; the run is finished, so that it only says so.
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "hrkd_cli")
    _, err = finish(start(*distil, "--resume", cwd=two, program=torchrun))
    assert err.count("is already finished") == 1


def test_two_processes_reproduce_one_with_texts_that_have_no_label(tmp_path, still_encoder, uneven, monkeypatch):
    texts = tmp_path / "texts"
    texts.mkdir()
    for seed, (domain, count) in enumerate((("books", 31), ("toys", 17))):
        lines = [f"{text} {n}" for n, text in enumerate(make_texts(count, 50 + seed)[0])]
        (texts / f"{domain}.txt").write_text("\n".join(lines), encoding="utf-8")
    distil = [
        "distill", "--teacher", str(still_encoder), "--data", str(uneven), "--student", "2x32", "--teacher-epochs", "1",
        "--allow-weak-teacher", "--batch-size", "3", "--unlabelled", str(texts), "--unlabelled-share", "0.4",
        *SHARED,
    ]  # fmt: skip
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    monkeypatch.chdir(one)
    assert main(distil) == 0
    for stage in ("dataset", "teacher"):
        shutil.copytree(one / "hrkd-out" / stage, two / "hrkd-out" / stage)
    _, err = finish(start(*distil, "--processes", "2", cwd=two))
    assert err.count("unlabeled texts: books 31, toys 17") == 1
    alone, together = (losses(base / "hrkd-out" / "student") for base in (one, two))
    assert len(alone[0]) == len(together[0]) > 5
    for a, b in zip(alone[0], together[0], strict=True):
        assert b == pytest.approx(a, rel=1e-5, abs=1e-8)
    assert alone[1] == together[1]


def test_a_process_that_dies_is_named_and_the_run_goes_on(tmp_path, still_encoder, uneven, capsys):
    words = [
        "teach", "--model", str(still_encoder), "--data", str(uneven), *SHARED[:-1], "30", "--out", "t",
        "--checkpoint-every", "1",
    ]  # fmt: skip
    process = start(*words, "--processes", "2", cwd=tmp_path)
    partial = tmp_path / "t.partial"
    while process.poll() is None and not list(partial.glob("checkpoint-[3-9]")):
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()[1]
    victim = next(pid for pid in workers(process.pid) if environment(pid).get("RANK") == "1")
    os.kill(victim, signal.SIGKILL)
    _, err = finish(process, code=1)
    assert "rank 1: the process was killed by SIGKILL" in err
    assert "Traceback" not in err
    # What it had is enough for one process to go on with.
    assert main([*words[:-2], "--resume", "--checkpoint-every", "200"]) == 0
    assert "resuming after step" in capsys.readouterr().err


def workers(parent):
    """Return the processes that one process started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(status[1]) == parent:
                found.append(int(entry.name))
    return found


def environment(pid):
    entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return dict(e.decode().split("=", 1) for e in entries if b"=" in e)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_an_error_of_every_process_is_said_once(tmp_path, still_encoder, uneven):
    words = ["teach", "--model", str(still_encoder), "--data", str(uneven), "--max-length", "5000", "--out", "t"]
    _, err = finish(start(*words, "--processes", "2", cwd=tmp_path), code=2)
    assert err.count("--max-length 5000") == 1
    assert not (tmp_path / "t").exists()


def test_other_processes_than_asked_for(tmp_path, encoder, dataset, monkeypatch):
    with pytest.raises(UsageError, match="--processes 2: only this process was started"):
        teach(encoder, data=dataset, out=tmp_path / "t", processes=2, max_length=16)
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UsageError, match="--processes 2: 3 processes were started"):
        teach(encoder, data=dataset, out=tmp_path / "t", processes=2, max_length=16)
    assert list(tmp_path.iterdir()) == []


def test_every_row_is_run_by_one_process():
    rows = {"books": [4, 1, 9], "music": [2]}
    refs = [local_rows(rows, ProcessGroup(rank, 3)) for rank in range(3)]
    assert sorted(ref for own in refs for ref in own) == [("books", 1), ("books", 4), ("books", 9), ("music", 2)]
    assert all(refs)
