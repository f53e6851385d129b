"""The trainer: early stopping, accumulation, and losses that are not finite."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from hrkd_cli.errors import OutputError, TrainingError
from hrkd_cli.evaluation.metrics import DomainScores
from hrkd_cli.teaching.fine_tuning import FineTuningObjective
from hrkd_cli.teaching.teach import teach
from hrkd_cli.training import trainer
from hrkd_cli.training.loop import LossOutput
from hrkd_cli.training.trainer import Trainer, choose_threads
from short_runs import run_teach


def test_the_cost_estimate_does_not_change_the_weights(tmp_path, encoder, dataset, monkeypatch):
    run_teach(encoder, dataset, tmp_path / "a", epochs=1)
    monkeypatch.setattr(Trainer, "_estimate_cost", lambda *_: None)
    run_teach(encoder, dataset, tmp_path / "b", epochs=1)
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_patience_stops_a_run_without_improvement(tmp_path, encoder, dataset, monkeypatch):
    flat = {d: DomainScores(16, 0.5, 0.5, (0.0, 1.0), {}) for d in ("books", "music")}
    monkeypatch.setattr("hrkd_cli.training.trainer.score_split", lambda *_: flat)
    result = run_teach(encoder, dataset, tmp_path / "t", epochs=3, eval_every=2, patience=2)
    assert (result.steps, result.best_step) == (6, 6)
    metrics = [json.loads(line) for line in (tmp_path / "t" / "metrics.jsonl").read_text().splitlines()]
    scored = [(line["step"], line["is_best"], line["is_kept"]) for line in metrics if "dev" in line]
    assert scored == [(2, True, True), (4, False, True), (6, False, True)]


def test_without_epochs_a_run_is_evaluated_at_most_20_times_and_stops_when_dev_stalls(
    tmp_path, encoder, dataset, monkeypatch
):
    flat = {d: DomainScores(16, 0.5, 0.5, (0.0, 1.0), {}) for d in ("books", "music")}
    monkeypatch.setattr("hrkd_cli.training.trainer.score_split", lambda *_: flat)
    result = teach(encoder, data=dataset, out=tmp_path / "t", device="cpu", learning_rate=1e-3, max_length=16)
    # 6 steps per epoch: 50 epochs for 300 steps, an evaluation every 15. The first is a record, 10 more end the run.
    assert result.steps == 11 * 15
    plan = json.loads((tmp_path / "t" / "hrkd.json").read_text())["plan"]
    assert plan == {"epochs": 50, "learning_rate": 1e-3, "max_length": 16, "patience": 10}


def test_accumulated_batches_make_one_step(tmp_path, encoder, dataset):
    assert run_teach(encoder, dataset, tmp_path / "t", epochs=1, batch_size=4, accumulate=2).steps == 6


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_no_files(tmp_path, encoder, dataset, monkeypatch):
    model_loss = FineTuningObjective.loss

    def broken(self, batch):
        return LossOutput(model_loss(self, batch).total * float("nan"))

    monkeypatch.setattr(FineTuningObjective, "loss", broken)
    with pytest.raises(TrainingError, match=r"step 1: the loss is nan.*--learning-rate"):
        run_teach(encoder, dataset, tmp_path / "t")
    assert list(tmp_path.iterdir()) == []


def test_too_little_disk_space_is_an_error_before_training(tmp_path, encoder, dataset, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(OutputError, match="MB of disk, but only 0 MB are free"):
        run_teach(encoder, dataset, tmp_path / "t", epochs=1)


@pytest.mark.parametrize(
    ("seconds", "load", "changes", "threads"),
    [
        ({2: 3.0, 1: 1.0}, 99.0, {}, 1),
        ({2: 1.0, 1: 1.5}, 99.0, {}, 2),
        ({2: 3.0, 1: 1.0}, 0.5, {}, 2),
        ({2: 3.0, 1: 1.0}, 99.0, {"given": 2}, 2),
        ({2: 3.0, 1: 1.0}, 99.0, {"environment": "2"}, 2),
        ({2: 3.0, 1: 1.0}, 99.0, {"step": 5}, 2),
        ({2: 3.0, 1: 1.0}, 99.0, {"device": "cuda"}, 2),
    ],
)
def test_a_busy_cpu_gets_one_thread_if_a_step_is_faster_with_it(monkeypatch, seconds, load, changes, threads):
    before, clock, notes = torch.get_num_threads(), [0.0], []

    def dry_run(_rows):
        clock[0] += seconds[torch.get_num_threads()]

    monkeypatch.setattr(trainer, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(trainer, "system_load", lambda: load)
    monkeypatch.delenv("OMP_NUM_THREADS")
    if "environment" in changes:
        monkeypatch.setenv("OMP_NUM_THREADS", changes["environment"])
    device = torch.device(changes.get("device", "cpu"))
    processes = SimpleNamespace(any=lambda busy: busy)
    context = SimpleNamespace(threads=changes.get("given"), device=device, on_event=notes.append, processes=processes)
    checkpointer = SimpleNamespace(step=changes.get("step", 0), decisions={})
    run = SimpleNamespace(objective=SimpleNamespace(dry_run=dry_run), context=context, checkpointer=checkpointer)
    torch.set_num_threads(2)
    try:
        assert choose_threads(run, {}) == seconds[threads]
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert checkpointer.decisions == ({"threads": 1} if threads == 1 else {})
    assert [note.text for note in notes] == (
        ["the CPU is busy: one thread is 3.0 times as fast as 2 and is used (--threads)"] if threads == 1 else []
    )
