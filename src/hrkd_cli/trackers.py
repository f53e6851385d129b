"""Experiment trackers (``--log-to``): every number of a run's events goes to TensorBoard, W&B, MLflow or Trackio."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol

from hrkd_cli.choices import Tracker
from hrkd_cli.errors import MissingPackageError, one_line
from hrkd_cli.events import DevScored, Event, Note, OnEvent, StageDone, StageStarted, StageStopped, StepDone

PROJECT = "hrkd"
TENSORBOARD_RUNS = "runs"  # next to the output folders
FORBIDDEN = re.compile(r"[^\w .-]")  # in MLflow's names
Numbers = dict[str, float]


def check_tracker(tracker: Tracker | None) -> None:
    """Raise MissingPackageError if the tracker is not installed."""
    spec = importlib.util.find_spec(tracker) if tracker else None
    if tracker and (spec is None or spec.origin is None):  # without an origin, it is only a folder of that name
        raise MissingPackageError(f"--log-to {tracker}", tracker)


class RunTracker:
    """Passes events on, and logs each training run among them as a run of the tracker.

    A tracker that fails is given up for the rest of the run, with one warning.
    """

    def __init__(self, tracker: Tracker, on_event: OnEvent) -> None:
        self.tracker, self.on_event = tracker, on_event
        self.client: _Client | None = None

    def __call__(self, event: Event) -> None:
        """Pass an event on, then log it."""
        self.on_event(event)
        try:
            self._log(event)
        except Exception as error:  # whatever the library or its server raises
            self.client = None
            text = f"--log-to {self.tracker}: {one_line(error)}; the run continues, logged to metrics.jsonl only"
            self.on_event(Note(text, warning=True))

    def _log(self, event: Event) -> None:
        if isinstance(event, StageStarted):
            self.client = _CLIENTS[self.tracker](f"{Path(event.out).name}-{event.run_id}", event)
            self.on_event(Note(f"{self.tracker}: {self.client.location}"))
        client = self.client
        if client is None:
            return
        match event:
            case StepDone():
                client.log(numbers(_values(event), "train"), event.step)
            case DevScored():
                client.log(numbers(_values(event), f"dev/{event.metric}"), event.step)
            case StageDone():
                self.client = None
                client.finish(numbers(event.dev, "final"), done=True)
            case StageStopped():
                self.client = None
                client.finish({}, done=False)


def numbers(values: Any, name: str) -> Numbers:
    """Return the numbers in nested mappings and lists, by their path; trackers do not allow all characters in it."""
    if isinstance(values, int | float) and not isinstance(values, bool):
        return {name: float(values)}
    if isinstance(values, list | tuple):
        values = dict(enumerate(values))
    found: Numbers = {}
    for key, value in values.items() if isinstance(values, Mapping) else ():
        found |= numbers(value, f"{name}/{FORBIDDEN.sub('_', str(key))}")
    return found


def _values(event: StepDone | DevScored) -> dict[str, Any]:
    return {each.name: getattr(event, each.name) for each in fields(event) if each.name != "step"}


class _Client(Protocol):
    """A run of a tracker; ``location`` tells where to look at it."""

    location: str

    def log(self, values: Numbers, step: int) -> None: ...

    def finish(self, summary: Numbers, *, done: bool) -> None: ...


class _TensorBoard:
    def __init__(self, name: str, run: StageStarted) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = Path(run.out).parent / TENSORBOARD_RUNS / name
        self.location, self.options = f"tensorboard --logdir {folder.parent}", run.options
        resumed = {"purge_step": run.first_step + 1} if run.first_step else {}
        self.writer: Any = SummaryWriter(str(folder), **resumed)
        self.writer.add_text("options", f"```json\n{json.dumps(dict(run.options), indent=2)}\n```")

    def log(self, values: Numbers, step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def finish(self, summary: Numbers, *, done: bool) -> None:
        if done:
            plain = {
                name: value if isinstance(value, int | float) else str(value) for name, value in self.options.items()
            }
            self.writer.add_hparams(plain, summary, run_name=".")
        self.writer.close()


class _Wandb:
    def __init__(self, name: str, run: StageStarted) -> None:
        import wandb

        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=Path(run.out).name,
            id=name,
            resume="allow",
            config=dict(run.options),
            settings=wandb.Settings(console="off", silent=True),
        )
        self.location = f"wandb sync {Path(self.run.dir).parent}" if self.run.offline else self.run.url

    def log(self, values: Numbers, step: int) -> None:
        self.run.log(values, step=step)

    def finish(self, summary: Numbers, *, done: bool) -> None:
        self.run.summary.update(summary)
        self.run.finish(exit_code=0 if done else 1)


class _MLflow:
    def __init__(self, name: str, run: StageStarted) -> None:
        import mlflow

        self.mlflow = mlflow
        if not os.environ.keys() & {"MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"}:
            mlflow.set_experiment(PROJECT)
        earlier = mlflow.search_runs(filter_string=f"attributes.run_name = '{name}'", output_format="list")
        run_id = earlier[0].info.run_id if earlier else None
        self.run = mlflow.start_run(run_id=run_id, run_name=name, nested=True)
        if not earlier:
            mlflow.log_params(dict(run.options))
        self.location = f"run {name} in {mlflow.get_tracking_uri()}"

    def log(self, values: Numbers, step: int) -> None:
        self.mlflow.log_metrics(values, step=step)

    def finish(self, summary: Numbers, *, done: bool) -> None:
        if summary:
            self.mlflow.log_metrics(summary)
        self.mlflow.end_run("FINISHED" if done else "KILLED")


class _Trackio:
    def __init__(self, name: str, run: StageStarted) -> None:
        import trackio

        self.trackio, self.step = trackio, run.first_step
        with contextlib.redirect_stdout(None):
            trackio.init(project=PROJECT, name=name, config=dict(run.options), resume="allow")
        self.location = f"trackio show --project {PROJECT}"

    def log(self, values: Numbers, step: int) -> None:
        self.step = step
        self.trackio.log(values, step=step)

    def finish(self, summary: Numbers, *, done: bool) -> None:
        with contextlib.redirect_stdout(None):
            if done:
                self.trackio.log(summary, step=self.step)
            self.trackio.finish()


_CLIENTS: dict[Tracker, Any] = {
    Tracker.TENSORBOARD: _TensorBoard,
    Tracker.WANDB: _Wandb,
    Tracker.MLFLOW: _MLflow,
    Tracker.TRACKIO: _Trackio,
}
