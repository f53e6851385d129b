"""What a run tells of its steps: metrics.jsonl, the events for whoever watches, rates and time left."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from hrkd_cli.evaluation.metrics import DomainScores
from hrkd_cli.events import OnEvent, StepDone
from hrkd_cli.training.loop import StepOutput
from hrkd_cli.training.scoring import scores_to_json

RATE_WINDOW = 20  # steps over which examples/s is averaged
UNREAD = 20  # steps whose numbers may wait on a GPU: reading one stops it until it has caught up


class MetricsLogger:
    """Writes each step once, in order.

    Args:
        file: metrics.jsonl; None writes nothing (a process that is not the main one).
        stage: ``"teach"``, ``"general"`` or ``"distill"``.
        on_event: told of each step.
        eager: read each step's numbers at once (on a CPU they are there already).
    """

    def __init__(self, file: Path | None, *, stage: str, on_event: OnEvent, eager: bool) -> None:
        self.file = file
        self.stage = stage
        self.on_event = on_event
        self.unread_limit = 1 if eager else UNREAD
        self.unread: list[StepOutput] = []
        self.window: deque[tuple[float, int]] = deque(maxlen=RATE_WINDOW)
        self.seconds = 0.0
        self.examples = 0
        self.tick = time.perf_counter()
        self._stream: Any = None

    def open(self, position: int) -> None:
        """Start to write at a byte position: what an interrupted run wrote after its checkpoint is cut off.

        Raises:
            OSError: the file cannot be written.
        """
        if self.file is not None:
            self._stream = self.file.open("ab")
            self._stream.truncate(min(position, self.file.stat().st_size))
            self._stream.seek(0, 2)
        self.restart_clock()

    def __enter__(self) -> MetricsLogger:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._stream.close()

    @property
    def position(self) -> int:
        """Bytes written so far."""
        return 0 if self._stream is None else int(self._stream.tell())

    @property
    def step_seconds(self) -> float:
        """Mean time of the last steps; 0 before the first."""
        return sum(s for s, _ in self.window) / len(self.window) if self.window else 0.0

    @property
    def examples_per_second(self) -> float:
        """Speed over the last steps."""
        return sum(n for _, n in self.window) / max(1e-9, sum(s for s, _ in self.window))

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
            TrainingError: a loss is not a number.
        """
        if not self.unread:
            return
        steps, self.unread = self.unread, []
        # One copy from the device for all of them, though not all steps have as many figures.
        flat = torch.cat([step.values for step in steps]).tolist()
        ends = list(accumulate(len(step.values) for step in steps))
        rows = [flat[end - len(step.values) : end] for step, end in zip(steps, ends, strict=True)]
        now = time.perf_counter()
        each, self.tick = (now - self.tick) / len(steps), now
        for step, values in zip(steps, rows, strict=True):
            self.seconds, self.examples = self.seconds + each, self.examples + step.examples
            self.window.append((each, step.examples))
            self._write(step, values, seconds_left)

    def scored(self, step: int, scores: Mapping[str, DomainScores], *, is_best: bool) -> None:
        """Write dev scores."""
        self._append({"step": step, "dev": scores_to_json(scores), "is_best": is_best})

    def _write(self, step: StepOutput, values: list[float], seconds_left: float) -> None:
        found, rate = step.read(values), self.examples_per_second
        record: dict[str, Any] = {
            "step": step.number,
            "epoch": step.epoch,
            "losses": found.losses,
            "learning_rate": step.learning_rate,
            "gradient_norm": found.gradient_norm,
        }
        record |= {"ratios": found.ratios} if found.ratios else {}
        record |= {"layer_ratios": found.layer_ratios} if found.layer_ratios else {}
        self._append({**record, "examples_per_second": round(rate, 2)})
        self.on_event(
            StepDone(
                stage=self.stage,
                step=step.number,
                epoch=step.epoch,
                losses=found.losses,
                learning_rate=step.learning_rate,
                examples_per_second=rate,
                seconds_left=seconds_left,
                ratios=found.ratios,
                layer_ratios=found.layer_ratios,
            )
        )

    def _append(self, record: dict[str, Any]) -> None:
        if self._stream is not None:
            self._stream.write((json.dumps(record) + "\n").encode())
            self._stream.flush()
