"""Events of a long job: the engine prints nothing, it calls ``on_event`` with these records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence for the user: what is being done or was decided. ``warning`` marks what needs attention."""

    text: str
    warning: bool = False


@dataclass(frozen=True, slots=True)
class StageStarted:
    """A training run (``stage``: ``"teach"`` or ``"distill"``) is about to start.

    Attributes:
        steps: optimizer steps in the whole run.
        domains: domain names, in the order of every per-domain list that follows.
        seconds: estimated duration, measured on this machine with one real batch.
        disk_bytes: estimated peak of what the run writes.
    """

    stage: str
    steps: int
    epochs: int
    domains: tuple[str, ...]
    seconds: float
    disk_bytes: int


@dataclass(frozen=True, slots=True)
class StepDone:
    """One optimizer step.

    Attributes:
        step: 1-based number of the step.
        epoch: passes over the data so far, as a fraction.
        losses: loss by kind, weighted as in the total: ``total`` and what it consists of.
        examples_per_second: of all domains, over the last steps.
        seconds_left: estimate until the end of the run, dev scoring included.
        ratios: domain ratios by student layer, (L+1) lists of D numbers; empty where there is no graph.
        layer_ratios: mean weight over domains of layers 0..l at each student layer l >= 1; empty without hierarchy.
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
        metric: ``"accuracy"`` or ``"macro-f1"``: what "best" means in this run.
        domains: score by domain, 0..1.
        average: unweighted mean over domains.
        is_best: whether the average is the best so far.
    """

    stage: str
    step: int
    metric: str
    domains: Mapping[str, float]
    average: float
    is_best: bool


@dataclass(frozen=True, slots=True)
class StageDone:
    """A training run has ended and its folder is whole."""

    stage: str
    out: str
    steps: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Progress:
    """Something countable that is not training: rows read, rows scored. ``total`` is None when unknown."""

    task: str
    done: int
    total: int | None = None


Event = Note | StageStarted | StepDone | DevScored | StageDone | Progress
OnEvent = Callable[[Event], None]


def ignore(_event: Event) -> None:
    """Drop an event: what the Python API does unless it is given an ``on_event``."""
