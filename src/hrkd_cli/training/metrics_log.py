"""What a run reports of its steps: metrics.jsonl, events, rates, the time that is left."""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hrkd_cli.errors import TrainingError
from hrkd_cli.events import OnEvent, StepDone
from hrkd_cli.training.loop import StepOutput

RATE_WINDOW = 20  # steps over which examples/s is averaged
UNREAD = 20  # steps whose tensors may wait on a GPU: reading one stops it until it has caught up
STATE = ("seconds", "examples", "position", "waited", "dev_seconds")  # what a checkpoint holds, and the time


@dataclass(kw_only=True, eq=False)
class MetricsLogger:
    """Writes each step once, in order, and emits it as an event.

    Attributes:
        file: metrics.jsonl; None writes nothing (a process that is not the main one).
        stage: name of the stage, for the events.
        steps: optimizer steps in the whole run.
        eager: read each step's tensors at once (on a CPU they are there already).
        seconds: training time so far, dev scoring and checkpoints left out.
        examples: rows of all domains so far.
        position: bytes of the file that are true.
        waited: dev scores since the best average.
        dev_seconds: time of the last dev scoring; an estimate before the first one.
        begun: when the run began, by ``time.perf_counter``; later by the length of interruptions.
        losses: of the last step, by kind.
    """

    file: Path | None
    stage: str
    steps: int
    steps_per_epoch: float
    eval_every: int
    on_event: OnEvent
    eager: bool
    seconds: float = 0.0
    examples: int = 0
    position: int = 0
    waited: int = 0
    dev_seconds: float = 0.0

    def __post_init__(self) -> None:
        self.losses: dict[str, float] = {}
        self.unread: list[StepOutput] = []
        self.window: deque[tuple[float, int]] = deque(maxlen=RATE_WINDOW)
        self.begun = self.tick = time.perf_counter()

    def open(self) -> None:
        """Start to write; what an interrupted run wrote after its checkpoint is cut off.

        Raises:
            OSError: the file cannot be written.
        """
        if self.file is not None:
            with self.file.open("ab") as stream:
                stream.truncate(min(self.position, self.file.stat().st_size))
        self.restart_clock()

    @property
    def rate(self) -> float:
        """Examples of all domains per second of training."""
        return self.examples / max(1e-9, self.seconds)

    def restart_clock(self) -> None:
        """Leave out what happened since the last step (dev scoring, a checkpoint)."""
        self.tick = time.perf_counter()

    def add(self, step: StepOutput) -> None:
        """Take in a step; it is written now or with a few others."""
        self.unread.append(step)
        if self.eager or len(self.unread) >= UNREAD:
            self.flush()

    def flush(self) -> None:
        """Read and write all steps taken in; they have the same losses and ratios.

        Raises:
            TrainingError: a loss, or a gradient, is not a number.
        """
        if not self.unread:
            return
        steps, self.unread = self.unread, []
        # One copy from the device for all steps' tensors of a name.
        columns = {name: torch.stack([step.tensors[name] for step in steps]).tolist() for name in steps[0].tensors}
        now = time.perf_counter()
        each, self.tick = (now - self.tick) / len(steps), now
        for number, step in enumerate(steps):
            self.seconds, self.examples = self.seconds + each, self.examples + step.examples
            self.window.append((each, step.examples))
            self._write(step, {name: column[number] for name, column in columns.items()})

    def add_dev(self, step: int, dev: Mapping[str, Any], *, is_best: bool, seconds: float) -> None:
        """Write dev scores (see scores_to_json)."""
        self.dev_seconds = seconds
        self.waited = 0 if is_best else self.waited + 1
        self._append({"step": step, "dev": dev, "is_best": is_best})

    def state_dict(self) -> dict[str, Any]:
        """Return how far the run is."""
        return {name: getattr(self, name) for name in STATE} | {"wall": time.perf_counter() - self.begun}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict()`` returned."""
        for name in STATE:
            setattr(self, name, state[name])
        self.begun = time.perf_counter() - state["wall"]

    def _write(self, step: StepOutput, values: Mapping[str, Any]) -> None:
        losses = self.losses = {kind: values[kind] for kind in step.losses}
        norm = values["gradient_norm"]
        for what, value in (("loss", losses["total"]), ("gradient", norm)):
            if not math.isfinite(value) and (what == "loss" or not step.scaled):
                raise TrainingError(
                    f"step {step.number}: the {what} is {value}, not a number; lower --learning-rate or raise --warmup"
                )
        seconds = sum(s for s, _ in self.window)
        rate = sum(n for _, n in self.window) / max(1e-9, seconds)
        evaluations = math.ceil(self.steps / self.eval_every) - step.number // self.eval_every
        left = (self.steps - step.number) * seconds / len(self.window) + evaluations * self.dev_seconds
        shared: dict[str, Any] = {
            "step": step.number,
            "epoch": step.number / self.steps_per_epoch,
            "losses": losses,
            "learning_rate": step.learning_rate,
        }
        graph: dict[str, Any] = {}
        if "ratios" in values:
            graph["ratios"] = tuple(map(tuple, values["ratios"]))
        if layers := [tuple(values[name]) for name in values if name.startswith("layer.")]:
            graph["layer_ratios"] = tuple(layers)
        self._append({**shared, "gradient_norm": norm, **graph, "examples_per_second": round(rate, 2)})
        self.on_event(StepDone(stage=self.stage, examples_per_second=rate, seconds_left=left, **shared, **graph))

    def _append(self, record: dict[str, Any]) -> None:
        line = (json.dumps(record) + "\n").encode()
        self.position += len(line)
        if self.file is not None:
            with self.file.open("ab") as stream:
                stream.write(line)
