"""What a run reports of its steps: metrics.jsonl, events, rates."""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hrkd_cli.errors import TrainingError
from hrkd_cli.evaluation.metrics import DomainScores, scores_to_json
from hrkd_cli.events import OnEvent, StepDone
from hrkd_cli.training.loop import StepOutput

RATE_WINDOW = 20  # steps over which examples/s is averaged
UNREAD = 20  # steps whose tensors may wait on a GPU: reading one stops it until it has caught up


class MetricsLogger:
    """Writes each step once, in order, and emits it as an event.

    Args:
        file: metrics.jsonl; None writes nothing (a process that is not the main one).
        stage: name of the stage, for the events.
        steps_per_epoch: optimizer steps in an epoch.
        on_event: receives each step.
        eager: read each step's tensors at once (on a CPU they are there already).

    Attributes:
        seconds: training time so far, dev scoring and checkpoints left out.
        examples: rows of all domains so far.
        losses: of the last step, by kind.
    """

    def __init__(
        self, file: Path | None, *, stage: str, steps_per_epoch: float, on_event: OnEvent, eager: bool
    ) -> None:
        self.file = file
        self.stage = stage
        self.steps_per_epoch = steps_per_epoch
        self.on_event = on_event
        self.unread_limit = 1 if eager else UNREAD
        self.unread: list[StepOutput] = []
        self.window: deque[tuple[float, int]] = deque(maxlen=RATE_WINDOW)
        self.seconds = 0.0
        self.examples = 0
        self.losses: dict[str, float] = {}
        self.position = 0  # bytes of the file that are true
        self.tick = time.perf_counter()

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
    def step_seconds(self) -> float:
        """Mean time of the last steps; 0 before the first."""
        return sum(s for s, _ in self.window) / len(self.window) if self.window else 0.0

    def restart_clock(self) -> None:
        """Leave out what happened since the last step (dev scoring, a checkpoint)."""
        self.tick = time.perf_counter()

    def add(self, step: StepOutput, seconds_left: float) -> None:
        """Take in a step; it is written now or with a few others."""
        self.unread.append(step)
        if len(self.unread) >= self.unread_limit:
            self.flush(seconds_left)

    def flush(self, seconds_left: float) -> None:
        """Read and write all steps taken in.

        Raises:
            TrainingError: a loss, or a gradient, is not a number.
        """
        if not self.unread:
            return
        steps, self.unread = self.unread, []
        named = [_tensors(step) for step in steps]
        # One copy from the device for all of them.
        flat = torch.cat([t.reshape(-1) for own in named for t in own.values()]).cpu().numpy()
        now = time.perf_counter()
        each, self.tick = (now - self.tick) / len(steps), now
        position = 0
        for step, own in zip(steps, named, strict=True):
            values = {}
            for name, tensor in own.items():
                values[name] = flat[position : position + tensor.numel()].reshape(tensor.shape)
                position += tensor.numel()
            self.seconds, self.examples = self.seconds + each, self.examples + step.examples
            self.window.append((each, step.examples))
            self._write(step, values, seconds_left)

    def scored(self, step: int, scores: Mapping[str, DomainScores], *, is_best: bool) -> None:
        """Write dev scores."""
        self._append({"step": step, "dev": scores_to_json(scores), "is_best": is_best})

    def state_dict(self) -> dict[str, Any]:
        """Return times, counts and the bytes written so far."""
        return {"position": self.position, "seconds": self.seconds, "examples": self.examples}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict()`` returned."""
        self.position, self.seconds, self.examples = state["position"], state["seconds"], state["examples"]

    def _write(self, step: StepOutput, values: Mapping[str, np.ndarray], seconds_left: float) -> None:
        losses = self.losses = {kind: float(values[kind]) for kind in step.losses}
        norm = float(values["gradient_norm"])
        for what, value in (("loss", losses["total"]), ("gradient", norm)):
            if not math.isfinite(value) and (what == "loss" or not step.scaled):
                raise TrainingError(
                    f"step {step.number}: the {what} is {value}, not a number; lower --learning-rate or raise --warmup"
                )
        ratios = tuple(map(tuple, values["ratios"].tolist())) if "ratios" in values else ()
        layer_ratios = tuple(tuple(values[f"layer.{n}"].tolist()) for n in range(len(step.layer_ratios)))
        rate = sum(n for _, n in self.window) / max(1e-9, sum(s for s, _ in self.window))
        shared: dict[str, Any] = {
            "step": step.number,
            "epoch": step.number / self.steps_per_epoch,
            "losses": losses,
            "learning_rate": step.learning_rate,
        }
        graph: dict[str, Any] = {"ratios": ratios} if ratios else {}
        graph |= {"layer_ratios": layer_ratios} if layer_ratios else {}
        self._append({**shared, "gradient_norm": norm, **graph, "examples_per_second": round(rate, 2)})
        self.on_event(
            StepDone(stage=self.stage, examples_per_second=rate, seconds_left=seconds_left, **shared, **graph)
        )

    def _append(self, record: dict[str, Any]) -> None:
        line = (json.dumps(record) + "\n").encode()
        self.position += len(line)
        if self.file is not None:
            with self.file.open("ab") as stream:
                stream.write(line)


def _tensors(step: StepOutput) -> dict[str, torch.Tensor]:
    """Return all tensors of a step by name."""
    layers = {f"layer.{n}": ratios for n, ratios in enumerate(step.layer_ratios)}
    ratios = {} if step.ratios is None else {"ratios": step.ratios}
    return {**step.losses, "gradient_norm": step.gradient_norm, **ratios, **layers}
