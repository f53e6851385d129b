"""Events of long jobs: instead of printing, the engine calls ``on_event`` with one of these."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Note:
    """A message for the user about a result or a decision; ``warning`` if it needs attention."""

    text: str
    warning: bool = False


@dataclass(frozen=True, slots=True)
class StageStarted:
    """A training run (``stage``: ``"teach"`` or ``"distill"``) is about to start.

    Attributes:
        steps: optimizer steps of the whole run.
        domains: domain names, in the order of all per-domain lists in later events.
        seconds: estimated duration, from timing one batch on this machine.
        disk_bytes: estimated peak disk usage.
        rows: train rows of all domains.
        batch_size: rows per domain and step.
        max_length: tokens per text.
        parameters: weights that are trained, without those of a pooling layer.
        out: output folder.
        run_id: random name of the run, which a resumed run keeps.
        first_step: number of the last step before this start; 0 unless the run is resumed.
        options: all options of the run.
    """

    stage: str
    steps: int
    epochs: int
    domains: tuple[str, ...]
    seconds: float
    disk_bytes: int
    rows: int = 0
    batch_size: int = 0
    max_length: int = 0
    learning_rate: float = 0.0
    parameters: int = 0
    out: str = ""
    run_id: str = ""
    first_step: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ExportStarted:
    """An export is about to write its files. Bytes and seconds are estimates.

    Attributes:
        files: bytes of each model file by path, if the first recipe of its format passes the gate.
        recipes: recipes that may be tried, by format.
        dev_rows: rows that the accuracy gate scores; 0 without a gate.
        seconds: duration if a recipe of the first tier passes.
        max_seconds: duration if all recipes are tried.
        disk_bytes: peak disk usage.
        parameters: weights of the model.
    """

    files: Mapping[str, int]
    recipes: Mapping[str, int] = field(default_factory=dict)
    dev_rows: int = 0
    seconds: float = 0.0
    max_seconds: float = 0.0
    disk_bytes: int = 0
    parameters: int = 0


@dataclass(frozen=True, slots=True)
class StepDone:
    """One optimizer step.

    Attributes:
        step: 1-based number of the step.
        epoch: fractional number of epochs so far.
        losses: weighted losses by name, and their sum as ``total``.
        examples_per_second: over all domains and the last steps.
        seconds_left: estimated time until the end of the run, including dev scoring.
        ratios: domain ratios of each student layer, (L+1, D); empty without a domain graph.
        layer_ratios: for each student layer l >= 1, the weights of layers 0..l, averaged over domains; empty without
            hierarchy.
    """

    stage: str
    step: int
    epoch: float
    losses: Mapping[str, float]
    learning_rate: float
    examples_per_second: float
    seconds_left: float
    ratios: tuple[tuple[float, ...], ...] = ()
    layer_ratios: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class DevScored:
    """The dev split was scored with the weights of a step.

    Attributes:
        metric: ``"accuracy"`` or ``"macro-f1"``, whichever selects the best step.
        domains: score of each domain, 0 to 1.
        average: unweighted mean over domains.
        is_best: whether the average is the best so far.
        is_kept: whether these weights are kept: the best average, or the last of several that are equal.
    """

    stage: str
    step: int
    metric: str
    domains: Mapping[str, float]
    average: float
    is_best: bool
    is_kept: bool = False


@dataclass(frozen=True, slots=True)
class StageDone:
    """A training run has ended and its folder is complete; ``dev`` are its dev scores, as in ``hrkd eval --json``."""

    stage: str
    out: str
    steps: int
    seconds: float
    dev: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StageStopped:
    """A training run has ended without a result: an error, Ctrl-C or SIGTERM."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a task other than training, such as rows read or scored, from 0; ``total`` is None if unknown."""

    task: str
    done: int = 0
    total: int | None = None


Event = Note | StageStarted | ExportStarted | StepDone | DevScored | StageDone | StageStopped | Progress
OnEvent = Callable[[Event], None]


def ignore(_event: Event) -> None:
    """Discard an event: the default ``on_event`` of the Python API."""
