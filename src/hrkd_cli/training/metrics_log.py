"""Metrics of a run: metrics.jsonl, step events, speed and remaining time."""

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
MAX_PENDING = 20  # steps whose tensors stay on the GPU, because reading one waits for all work before it
CHECKPOINTED = ("seconds", "examples", "file_size", "evals_since_best", "dev_seconds")  # attributes


@dataclass(kw_only=True, eq=False)
class MetricsLogger:
    """Writes every step to metrics.jsonl, once and in order, and emits it as an event.

    Attributes:
        file: metrics.jsonl; None writes nothing (in processes other than the main one).
        steps: number of optimizer steps of the run.
        eval_every: steps between two dev scores.
        eager: read tensors after every step, for a CPU.
        seconds: training time so far, without dev scoring and checkpoints.
        examples: rows of all domains so far.
        file_size: bytes of the file that this run has written.
        evals_since_best: dev scores since the best average.
        dev_seconds: duration of the last dev scoring; an estimate before the first one.
        started: start of the run by ``time.perf_counter``, moved forward by the length of interruptions.
        losses: losses of the last step by name.
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
    file_size: int = 0
    evals_since_best: int = 0
    dev_seconds: float = 0.0

    def __post_init__(self) -> None:
        self.losses: dict[str, float] = {}
        self.pending: list[StepOutput] = []
        self.window: deque[tuple[float, int]] = deque(maxlen=RATE_WINDOW)
        self.started = self.last_tick = time.perf_counter()

    def open(self) -> None:
        """Start to write; lines that an interrupted run wrote after its checkpoint are removed.

        Raises:
            OSError: the file cannot be written.
        """
        if self.file is not None:
            with self.file.open("ab") as stream:
                stream.truncate(min(self.file_size, self.file.stat().st_size))
        self.restart_clock()

    @property
    def rate(self) -> float:
        """Examples of all domains per second of training."""
        return self.examples / max(1e-9, self.seconds)

    def restart_clock(self) -> None:
        """Exclude the time since the last step (dev scoring, a checkpoint) from the training time."""
        self.last_tick = time.perf_counter()

    def add(self, step: StepOutput) -> None:
        """Add a step, which is written now or together with the next ones."""
        self.pending.append(step)
        if self.eager or len(self.pending) >= MAX_PENDING:
            self.flush()

    def flush(self) -> None:
        """Write all pending steps, which have the same tensor names.

        Raises:
            TrainingError: a loss or gradient is not finite.
        """
        if not self.pending:
            return
        steps, self.pending = self.pending, []
        # One copy from the device for each name, not for each step.
        columns = {name: torch.stack([step.tensors[name] for step in steps]).tolist() for name in steps[0].tensors}
        now = time.perf_counter()
        step_seconds, self.last_tick = (now - self.last_tick) / len(steps), now
        for index, step in enumerate(steps):
            self.seconds += step_seconds
            self.examples += step.examples
            self.window.append((step_seconds, step.examples))
            self._write(step, {name: column[index] for name, column in columns.items()})

    def add_dev(self, step: int, dev: Mapping[str, Any], *, is_best: bool, is_kept: bool, seconds: float) -> None:
        """Write dev scores, as ``scores_to_json`` returns them; see ``DevScored``."""
        self.dev_seconds = seconds
        self.evals_since_best = 0 if is_best else self.evals_since_best + 1
        self._append({"step": step, "dev": dev, "is_best": is_best, "is_kept": is_kept})

    def state_dict(self) -> dict[str, Any]:
        """Return the progress of the run."""
        return {name: getattr(self, name) for name in CHECKPOINTED} | {"wall": time.perf_counter() - self.started}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict()`` returned."""
        for name in CHECKPOINTED:
            setattr(self, name, state[name])
        self.started = time.perf_counter() - state["wall"]

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
        evals_left = math.ceil(self.steps / self.eval_every) - step.number // self.eval_every
        seconds_left = (self.steps - step.number) * seconds / len(self.window) + evals_left * self.dev_seconds
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
        norm = norm if math.isfinite(norm) else None  # an overflow in fp16; JSON has no infinity
        self._append({**shared, "gradient_norm": norm, **graph, "examples_per_second": round(rate, 2)})
        self.on_event(
            StepDone(stage=self.stage, examples_per_second=rate, seconds_left=seconds_left, **shared, **graph)
        )

    def _append(self, metrics: dict[str, Any]) -> None:
        line = (json.dumps(metrics) + "\n").encode()
        self.file_size += len(line)
        if self.file is not None:
            with self.file.open("ab") as stream:
                stream.write(line)
