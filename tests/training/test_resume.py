"""Interrupted runs resume bit for bit as if they had not been interrupted, in one process on a CPU."""

import json
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from hrkd_cli.cli.main import main
from hrkd_cli.distillation.distill import distill
from hrkd_cli.errors import HrkdError, OutputError, TrainingError, UsageError
from hrkd_cli.events import Note, StageStopped, StepDone
from hrkd_cli.machine import usable_cpus
from hrkd_cli.outputs import latest_checkpoint_step
from hrkd_cli.teaching.teach import teach
from hrkd_cli.training.checkpoint import load_latest_checkpoint, write_checkpoint
from interrupted import StopError, run, same, stop_at, weights
from processes import finish, start
from tiny import write_raw


def steps(folder):
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [r for r in records if "losses" in r]


@pytest.mark.parametrize(
    ("stage", "options"),
    [
        ("teach", {}),
        ("teach", {"accumulate": 2}),
        ("distill", {"graph": "frozen"}),
        ("distill", {"graph": "learned", "graph_every": 2}),
        ("distill", {"cache_teacher": "on", "epochs": 1}),
        ("distill", {"cache_teacher": "off", "label_weight": 1.0}),
        ("distill", {"graph": "frozen", "means": "released"}),
    ],
)
def test_a_run_interrupted_several_times_ends_with_the_same_weights(
    tmp_path, teacher, encoder, dataset, stage, options
):
    whole = run(stage, teacher, encoder, dataset, tmp_path / "whole", **options)
    out = tmp_path / "cut"
    for step in (1, 2, 5, 6):
        with pytest.raises(StopError):
            run(stage, teacher, encoder, dataset, out, on_event=stop_at(step), resume=step > 1, **options)
    notes = []
    result = run(stage, teacher, encoder, dataset, out, resume=True, on_event=notes.append, **options)
    assert any(isinstance(n, Note) and "resuming after step 5" in n.text for n in notes)
    assert same(weights(out), weights(tmp_path / "whole"))
    assert result.dev == whole.dev
    assert (result.steps, result.best_step) == (whole.steps, whole.best_step)
    found, expected = steps(out), steps(tmp_path / "whole")
    assert [r["step"] for r in found] == list(range(1, whole.steps + 1))
    for one, other in zip(found, expected, strict=True):
        assert (one["losses"], one.get("ratios")) == (other["losses"], other.get("ratios"))
    assert not (tmp_path / "cut.partial").exists()
    assert not [p.name for p in out.iterdir() if p.name.startswith((".", "checkpoint", "weights"))]


@pytest.mark.parametrize("stage", ["teach", "distill"])
def test_a_resumed_run_keeps_its_automatic_batch_size(tmp_path, teacher, encoder, dataset, stage, monkeypatch):
    """The memory limit changes between the runs; the steps must not."""
    options = {"batch_size": "auto", "epochs": 1}
    monkeypatch.setattr("hrkd_cli.training.auto_batch_size.MAX_BATCH_SIZE", 8)
    run(stage, teacher, encoder, dataset, tmp_path / "whole", **options)
    with pytest.raises(StopError):
        run(stage, teacher, encoder, dataset, tmp_path / "cut", on_event=stop_at(3), **options)
    monkeypatch.setattr("hrkd_cli.training.auto_batch_size.MAX_BATCH_SIZE", 2)
    run(stage, teacher, encoder, dataset, tmp_path / "cut", resume=True, **options)
    assert same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))


def test_resuming_a_finished_run_changes_nothing(tmp_path, teacher, encoder, dataset):
    for stage in ("teach", "distill"):
        first = run(stage, teacher, encoder, dataset, tmp_path / stage)
        before = (tmp_path / stage / "model.safetensors").stat().st_mtime_ns
        again = run(stage, teacher, encoder, dataset, tmp_path / stage, resume=True)
        assert (again.steps, again.best_step, again.dev) == (first.steps, first.best_step, first.dev)
        assert (tmp_path / stage / "model.safetensors").stat().st_mtime_ns == before
        with pytest.raises(OutputError, match="from a run with other options"):
            run(stage, teacher, encoder, dataset, tmp_path / stage, resume=True, epochs=3)


def test_the_last_two_checkpoints_are_kept_and_a_damaged_one_is_skipped(tmp_path, teacher, encoder, dataset):
    out, work = tmp_path / "t", tmp_path / "t.partial"
    with pytest.raises(StopError):
        run("teach", teacher, encoder, dataset, out, on_event=stop_at(8))
    assert sorted(p.name for p in work.glob("checkpoint-*")) == ["checkpoint-6", "checkpoint-7"]
    state = work / "checkpoint-7" / "state.safetensors"
    data = bytearray(state.read_bytes())
    data[-9] ^= 1
    state.write_bytes(data)
    assert load_latest_checkpoint(work)[0]["step"] == 6
    run("teach", teacher, encoder, dataset, out, resume=True)
    run("teach", teacher, encoder, dataset, tmp_path / "whole")
    assert same(weights(out), weights(tmp_path / "whole"))


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, teacher, encoder, dataset, monkeypatch):
    def full(work, step, *rest):
        if step == 4:
            raise OSError(28, "No space left on device")
        write_checkpoint(work, step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr("hrkd_cli.training.checkpoint.write_checkpoint", full)
        with pytest.raises(OutputError, match="the disk is full"):
            run("teach", teacher, encoder, dataset, tmp_path / "t")
    assert latest_checkpoint_step(tmp_path / "t.partial") == 3
    run("teach", teacher, encoder, dataset, tmp_path / "t", resume=True)


def test_a_gradient_that_is_not_finite_gets_into_no_checkpoint(tmp_path, teacher, encoder, dataset, monkeypatch):
    from hrkd_cli.training.optimizer import Optimizer

    step, calls = Optimizer.step, []

    def broken(self, *args):
        calls.append(0)
        norm = step(self, *args)
        return norm * float("nan") if len(calls) == 4 else norm

    monkeypatch.setattr(Optimizer, "step", broken)
    with pytest.raises(TrainingError, match="step 4: the gradient is nan"):
        run("teach", teacher, encoder, dataset, tmp_path / "t")
    assert latest_checkpoint_step(tmp_path / "t.partial") == 3


def test_starting_over_a_checkpoint_needs_force_or_resume(tmp_path, teacher, encoder, dataset):
    out = Path("hrkd-out/teacher")
    with pytest.raises(StopError):
        run("teach", teacher, encoder, dataset, out, on_event=stop_at(3))
    with pytest.raises(OutputError, match=r"checkpoint after step 2; continue it with --resume, or start over"):
        teach(encoder, data="nothing", out=out)
    with pytest.raises(UsageError, match="--force --resume"):
        teach(encoder, data="nothing", out=out, force=True, resume=True)
    assert latest_checkpoint_step(Path("hrkd-out/teacher.partial")) == 2


@pytest.mark.parametrize("stage", ["teach", "distill"])
def test_a_run_with_force_is_resumed_beside_the_output_that_it_will_replace(tmp_path, teacher, encoder, dataset, stage):
    out = tmp_path / "t"
    run(stage, teacher, encoder, dataset, out, epochs=1)
    with pytest.raises(StopError):
        run(stage, teacher, encoder, dataset, out, force=True, on_event=stop_at(3))
    run(stage, teacher, encoder, dataset, out, resume=True)
    run(stage, teacher, encoder, dataset, tmp_path / "whole")
    assert same(weights(out), weights(tmp_path / "whole"))


def test_the_best_weights_stay_as_long_as_a_checkpoint_that_refers_to_them(
    tmp_path, teacher, encoder, dataset, monkeypatch
):
    def stop(work):
        assert list(work.glob("weights-*.safetensors"))
        raise StopError

    with monkeypatch.context() as patch:
        patch.setattr("hrkd_cli.training.stage_folder.remove_checkpoints", stop)
        with pytest.raises(StopError):
            run("teach", teacher, encoder, dataset, tmp_path / "t")
    run("teach", teacher, encoder, dataset, tmp_path / "t", resume=True)
    run("teach", teacher, encoder, dataset, tmp_path / "whole")
    assert same(weights(tmp_path / "t"), weights(tmp_path / "whole"))


def test_a_signal_in_the_last_step_stops_the_run_too(tmp_path, teacher, encoder, dataset):
    whole = run("teach", teacher, encoder, dataset, tmp_path / "whole")

    def interrupt(event):
        if isinstance(event, StepDone) and event.step == whole.steps:
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run("teach", teacher, encoder, dataset, tmp_path / "t", on_event=interrupt)
    finally:
        signal.signal(signal.SIGINT, before)
    assert latest_checkpoint_step(tmp_path / "t.partial") == whole.steps
    run("teach", teacher, encoder, dataset, tmp_path / "t", resume=True)
    assert same(weights(tmp_path / "t"), weights(tmp_path / "whole"))


def test_resuming_with_other_options_names_them(tmp_path, teacher, encoder, dataset):
    out = tmp_path / "t"
    with pytest.raises(StopError):
        run("teach", teacher, encoder, dataset, out, on_event=stop_at(3))
    with pytest.raises(TrainingError, match="was made with --epochs 2; resume it with the same options"):
        run("teach", teacher, encoder, dataset, out, resume=True, epochs=4)
    other = shutil.copytree(encoder, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-6}))
    with pytest.raises(TrainingError, match="with other data or another model"):
        run("teach", teacher, other, dataset, out, resume=True)
    run("teach", teacher, encoder, dataset, out, resume=True)


@pytest.mark.parametrize("stage", ["teach", "distill"])
def test_a_resumed_run_keeps_its_precision_on_a_machine_that_would_choose_another(
    tmp_path, teacher, encoder, dataset, monkeypatch, stage
):
    has_bf16, out = [True], tmp_path / "t"
    monkeypatch.setattr("hrkd_cli.models.precision.cpu_has_bf16", lambda: has_bf16[0])
    run(stage, teacher, encoder, dataset, tmp_path / "whole")
    with pytest.raises(StopError):
        run(stage, teacher, encoder, dataset, out, on_event=stop_at(3))
    has_bf16[0] = False
    for precision, message in (("fp32", "with --precision bf16; resume"), ("bf16", "or with another --precision; res")):
        with pytest.raises(TrainingError, match=message):
            run(stage, teacher, encoder, dataset, out, resume=True, precision=precision)
    run(stage, teacher, encoder, dataset, out, resume=True)
    assert json.loads((out / "hrkd.json").read_text())["precision"] == "bf16"
    assert same(weights(out), weights(tmp_path / "whole"))


def wait_for_step(process, work, step):
    """Wait until a step is in metrics.jsonl."""
    file = work / "metrics.jsonl"
    while process.poll() is None:
        if file.exists() and sum('"losses"' in line for line in file.read_text().splitlines()) >= step:
            return
        time.sleep(0.01)
    raise AssertionError(process.communicate()[1])


WORDS = ("--max-length", "16", "--batch-size", "2", "--checkpoint-every", "2", "--seed", "3")


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return write_raw(tmp_path_factory.mktemp("raw") / "reviews", rows=30)


def test_killed_at_random_points_and_resumed(tmp_path, encoder, raw, monkeypatch):
    """SIGKILL in teach, while teacher outputs are cached, and in distill."""
    rng = random.Random(7)
    words = [
        "distill", "--teacher", str(encoder), "--data", str(raw), "--student", "2x32", "--teacher-epochs", "2",
        "--epochs", "2", "--allow-weak-teacher", "--cache-teacher", "on", *WORDS,
    ]  # fmt: skip
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    monkeypatch.chdir(whole)
    assert main(words) == 0
    for place in ("teacher.partial/metrics.jsonl", "teacher-cache", "student.partial/metrics.jsonl"):
        process = start(*words, "--resume", cwd=cut)
        while not (cut / "hrkd-out" / place).exists():
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        process.communicate()
    finish(start(*words, "--resume", cwd=cut))
    for folder in ("teacher", "student"):
        one, other = (base / "hrkd-out" / folder for base in (whole, cut))
        assert same(weights(one), weights(other))
        assert [r["step"] for r in steps(other)] == [r["step"] for r in steps(one)]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_writes_a_checkpoint_before_the_run_ends(tmp_path, encoder, raw, number, code, capsys):
    words = ["teach", "--model", str(encoder), "--data", str(raw), "--epochs", "40", *WORDS[:4], "--out", "t"]
    process = start(*words, cwd=tmp_path)
    wait_for_step(process, tmp_path / "t.partial", 3)
    process.send_signal(number)
    _, err = finish(process, code)
    assert "with a checkpoint; continue with --resume" in err
    step = latest_checkpoint_step(tmp_path / "t.partial")
    assert step >= 3
    assert main(words) == 1
    assert f"left a checkpoint after step {step}" in capsys.readouterr().err


def test_resume_without_a_checkpoint_starts_a_new_run(tmp_path, encoder, raw):
    result = teach(encoder, data=raw, epochs=1, max_length=16, resume=True)
    assert result.steps > 0
    assert teach(encoder, data=raw, epochs=1, max_length=16, resume=True).steps == result.steps
    with pytest.raises(HrkdError):
        distill("hrkd-out/teacher", epochs=1, student="9x32", resume=True)


def test_a_resumed_run_keeps_its_threads_unless_it_is_given_others(tmp_path, teacher, encoder, dataset):
    default = torch.get_num_threads()
    threads = default + 1  # at least 2: above what a machine with one core restores, and torch allows it
    seen = []

    def record(event):
        if not isinstance(event, StageStopped):  # sent after the run has ended
            seen.append(torch.get_num_threads())
        stop_at(2)(event)

    with pytest.raises(StopError):
        run("teach", teacher, encoder, dataset, tmp_path / "t", on_event=record, threads=threads)
    assert seen[-1] == threads
    assert torch.get_num_threads() == default
    seen.clear()
    with pytest.raises(StopError):
        run("teach", teacher, encoder, dataset, tmp_path / "t", on_event=record, resume=True)
    restored = threads if threads <= max(default, usable_cpus()) else default
    assert seen[-1] == restored
    notes = []
    run("teach", teacher, encoder, dataset, tmp_path / "t", resume=True, threads=default, on_event=notes.append)
    text = f"the run had {restored} threads before, and has {default} now: the weights can differ by rounding"
    assert (Note(text, warning=True) in notes) == (restored != default)
    assert torch.get_num_threads() == default
