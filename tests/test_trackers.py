"""Experiment trackers: what each library is asked to log, and what happens if it fails."""

import re
import sys

import pytest

from fake_trackers import install
from hrkd_cli.choices import Tracker
from hrkd_cli.errors import MissingPackageError
from hrkd_cli.events import DevScored, Note, StageDone, StageStarted, StageStopped, StepDone
from hrkd_cli.trackers import RunTracker, check_tracker, numbers
from short_runs import read_metrics, run_teach, warnings

OPTIONS = {"epochs": None, "learning_rate": 0.1}
STEP = StepDone("teach", 1, 0.5, {"total": 2.0, "label": 1.5}, 1e-4, 10.0, 1.0, ((0.25, 0.75),))
TRAIN = {
    "train/epoch": 0.5,
    "train/losses/total": 2.0,
    "train/losses/label": 1.5,
    "train/learning_rate": 1e-4,
    "train/examples_per_second": 10.0,
    "train/seconds_left": 1.0,
    "train/ratios/0/0": 0.25,
    "train/ratios/0/1": 0.75,
}
SCORED = DevScored("teach", 1, "accuracy", {"a&b": 0.5}, 0.5, True)
DEV = {"dev/accuracy/domains/a_b": 0.5, "dev/accuracy/average": 0.5}
DONE = StageDone("teach", "runs/t", 1, 1.0, {"average": {"accuracy": 0.5}})
FINAL = {"final/average/accuracy": 0.5}


def started(first_step=0):
    return StageStarted("teach", 5, 1, ("a&b",), 1.0, 1, out="o/t", run_id="1f", first_step=first_step, options=OPTIONS)


def run(tracker, *events):
    """Send events through a tracker; return those that arrive behind it."""
    seen = []
    track = RunTracker(Tracker(tracker), seen.append)
    for event in events:
        track(event)
    return seen


def scalars(calls):
    """Return the numbers that were logged, by step."""
    steps = {}
    for _, step, values in (call for call in calls if call[0] == "log"):
        steps.setdefault(step, {}).update(values)
    return steps


@pytest.mark.parametrize("tracker", list(Tracker))
def test_every_event_is_passed_on_and_its_numbers_are_logged(tracker, tmp_path, monkeypatch, capsys):
    fake = install(tracker, tmp_path, monkeypatch)
    events = (started(), STEP, SCORED, DONE)
    seen = run(tracker, *events)
    assert [event for event in seen if not isinstance(event, Note)] == list(events)
    assert [event.text.split(":")[0] for event in seen if isinstance(event, Note)] == [tracker]
    logged = scalars(fake.calls)
    in_summary = FINAL if tracker == "trackio" else {}  # Trackio has no summary
    assert logged.pop(None, FINAL) == FINAL
    assert logged == {1: TRAIN | DEV | in_summary}
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("first_step", "last"), [(0, DONE), (3, StageStopped())])
def test_each_library_gets_name_options_summary_and_outcome(first_step, last, tmp_path, monkeypatch):
    fakes = {tracker: install(tracker, tmp_path, monkeypatch) for tracker in Tracker}
    for tracker in Tracker:
        run(tracker, started(first_step), last)
    done = first_step == 0
    assert fakes["tensorboard"].calls[0] == ("init", "o/runs/t-1f", {} if done else {"purge_step": 4})
    hparams = [("hparams", {"epochs": "None", "learning_rate": 0.1}, FINAL)] if done else []
    assert fakes["tensorboard"].calls[2:] == [*hparams, ("close",)]
    (_, init), finish = fakes["wandb"].calls
    assert (init["id"], init["resume"], init["config"], init["project"]) == ("t-1f", "allow", OPTIONS, "hrkd")
    assert finish == (("finish", 0, FINAL) if done else ("finish", 1, {}))
    outcome = [("log", None, FINAL), ("end", "FINISHED")] if done else [("end", "KILLED")]
    assert fakes["mlflow"].calls == [("experiment", "hrkd"), ("start", None), ("params", OPTIONS), *outcome]
    options = {"project": "hrkd", "name": "t-1f", "config": OPTIONS, "resume": "allow"}
    assert fakes["trackio"].calls == [("init", options), *([("log", 0, FINAL)] if done else []), ("finish",)]


def test_a_resumed_run_continues_the_run_of_mlflow(tmp_path, monkeypatch):
    fake = install("mlflow", tmp_path, monkeypatch)
    run("mlflow", started(), StageStopped())
    fake.calls.clear()
    run("mlflow", started(3), DONE)
    assert fake.calls[:2] == [("experiment", "hrkd"), ("start", "id-1")]
    assert "params" not in [call[0] for call in fake.calls]  # they cannot be logged twice


def test_a_training_outlives_its_tracker_with_one_warning(tmp_path, encoder, dataset, monkeypatch):
    fake = install("wandb", tmp_path, monkeypatch)

    def log(_run, _values, step):
        if step == 2:
            raise ConnectionError("the server is gone\nmore")
        fake.calls.append(("log", step))

    monkeypatch.setattr(fake.Run, "log", log)
    events = []
    run_teach(encoder, dataset, tmp_path / "t", events.append, epochs=1, log_to="wandb")
    assert [call for call in fake.calls if call[0] == "log"] == [("log", 1)]
    text = "--log-to wandb: the server is gone; the run continues, logged to metrics.jsonl only"
    assert warnings(events) == [text]
    assert len([line for line in read_metrics(tmp_path / "t") if "losses" in line]) > 2


def test_a_run_that_fails_is_closed_as_failed_and_one_that_ends_as_done(tmp_path, encoder, dataset, monkeypatch):
    fake = install("wandb", tmp_path, monkeypatch)
    result = run_teach(encoder, dataset, tmp_path / "t", epochs=1, log_to="wandb")
    average = result.dev["average"]["accuracy"]
    assert (fake.calls[-1][:2], fake.calls[-1][2]["final/average/accuracy"]) == (("finish", 0), average)
    fake.calls.clear()

    def stop(event):
        if isinstance(event, StepDone):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_teach(encoder, dataset, tmp_path / "u", stop, epochs=1, log_to="wandb")
    assert [call[:2] for call in fake.calls[1:]] == [("finish", 1)]


@pytest.mark.parametrize("tracker", list(Tracker))
def test_a_missing_library_is_an_error_with_its_install_line(tracker, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, tracker, raising=False)
    (tmp_path / tracker).mkdir()  # wandb writes a folder of its own name
    line = f"--log-to {tracker} needs {tracker}: {sys.executable} -m pip install {tracker}"
    with pytest.raises(MissingPackageError, match=f"^{re.escape(line)}$"):
        check_tracker(tracker)


def test_flags_and_texts_are_not_numbers():
    assert numbers({"a": [1, "x", True, None], "b": {"c": 2.5}}, "n") == {"n/a/0": 1.0, "n/b/c": 2.5}
