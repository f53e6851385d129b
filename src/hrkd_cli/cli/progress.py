"""Progress of a long job: lines that read well in a log, and on a terminal a moving part below them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Self

from hrkd_cli.cli.console import Console, is_terminal
from hrkd_cli.events import DevScored, Event, Note, OnEvent, Progress, StageDone, StageStarted, StepDone
from hrkd_cli.formatting import byte_size, duration, percent, plural, thousands

if TYPE_CHECKING:
    from rich.progress import TaskID

LINES_PER_RUN = 20
"""Progress lines of a run whose every twentieth takes less than the pause."""
PAUSE = 30.0
"""Seconds after which a line appears in any case: a sign of life."""
SHORTEST_PAUSE = 1.0
"""Seconds between two progress lines at least: a run of a few seconds needs no twenty."""

Clock = Callable[[], float]


def make_display(console: Console, clock: Clock = time.monotonic) -> AbstractContextManager[OnEvent]:
    """Return the display that fits where stderr leads; with ``--quiet`` the console drops all but warnings."""
    if is_terminal(console.err) and not console.quiet:
        return LiveDisplay(console, clock)
    return contextlib.nullcontext(PlainDisplay(console, clock))


class PlainDisplay:
    """Writes a line now and then, few enough to read."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._stage: StageStarted | None = None
        self._mark = 0
        self._last = clock()

    def __call__(self, event: Event) -> None:
        """Write a line about the event, or nothing when the last line is recent."""
        match event:
            case Note():
                self._say(event.text, warning=event.warning)
            case StageStarted():
                self._stage, self._mark = event, 0
                domains = f"{plural(len(event.domains), 'domain')}: {', '.join(event.domains)}"
                work = f"{plural(event.steps, 'step')} ({plural(event.epochs, 'epoch')}, {domains})"
                cost = f"about {duration(event.seconds)} and {byte_size(event.disk_bytes)} on disk"
                self._say(f"{event.stage}: {work}, {cost}")
            case StepDone() if self._is_due(event):
                self._say(f"{event.stage}: {_step_line(event, self._stage)}")
            case DevScored():
                scores = ", ".join(f"{name} {percent(value)}" for name, value in event.domains.items())
                score = f"step {thousands(event.step)}, dev {event.metric} {percent(event.average)} % ({scores})"
                self._say(f"{event.stage}: {score}{', best so far' if event.is_best else ''}")
            case StageDone():
                steps = f"{plural(event.steps, 'step')} in {duration(event.seconds)}"
                self._say(f"{event.stage}: done, {steps}, in {event.out}")
            case Progress() if self._is_due(event):
                self._say(f"{event.task}: {_count_line(event)}")

    def _say(self, text: str, *, warning: bool = False) -> None:
        self._last = self._clock()
        self._console.note(text, warning=warning)

    def _is_due(self, event: StepDone | Progress) -> bool:
        """Tell whether a step or a count gets a line."""
        elapsed = self._clock() - self._last
        if isinstance(event, Progress):
            is_whole = event.total is not None and event.done >= event.total
            return elapsed >= PAUSE or (is_whole and self._console.verbose)
        mark = event.step * LINES_PER_RUN // self._stage.steps if self._stage else 0
        due = elapsed >= PAUSE or (mark > self._mark and elapsed >= SHORTEST_PAUSE)
        self._mark = mark if due else self._mark
        return due or self._console.verbose


class LiveDisplay(PlainDisplay):
    """Draws bars below the lines: one for the steps of a training run, one for whatever else is being done now."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        super().__init__(console, clock)
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[text]}", markup=False),
            TimeElapsedColumn(),
        )
        # While the bars are shown, what is written to sys.stderr appears above them.
        rich = RichConsole(file=console.err, highlight=False)
        self.bars = Bars(*columns, console=rich, transient=True, redirect_stdout=False, refresh_per_second=8)
        self._tasks: dict[str, TaskID] = {}
        self._show("starting")

    def __enter__(self) -> Self:
        """Take the terminal's last lines."""
        self.bars.start()
        return self

    def __exit__(self, *_error: object) -> None:
        """Remove the bars and give the terminal back."""
        self.bars.stop()

    def __call__(self, event: Event) -> None:
        """Take over the event's state, and write above what should stay."""
        super().__call__(event)
        match event:
            case Note(warning=False):
                self._show(event.text)
            case Progress():
                self._show(event.task, event.done, event.total, _count_line(event))
            case StageStarted():
                text = f"step 0/{thousands(event.steps)}, {duration(event.seconds)} left"
                self._show(event.stage, 0, event.steps, text)
            case StepDone():
                text = _step_line(event, self._stage).replace(", loss", "\nloss", 1)  # two lines leave room for the bar
                self._show(event.stage, event.step, self._stage.steps if self._stage else None, text)
            case StageDone():
                self._stage = None
                self._show("finishing")

    def _show(self, what: str, done: int = 0, total: int | None = None, text: str = "") -> None:
        """Update the bar of a task, in the place of any other but that of the training run."""
        for other in self._tasks.keys() - {what, self._stage.stage if self._stage else what}:
            self.bars.remove_task(self._tasks.pop(other))
        if what not in self._tasks:
            self._tasks[what] = self.bars.add_task(what, text="")
        self.bars.update(self._tasks[what], completed=done, total=total, text=text)

    def _is_due(self, event: StepDone | Progress) -> bool:
        return self._console.verbose and isinstance(event, StepDone)


def _step_line(event: StepDone, stage: StageStarted | None) -> str:
    steps = stage.steps if stage else event.step
    return (
        f"step {thousands(event.step)}/{thousands(steps)} ({percent(event.step / steps, 0)} %), "
        f"epoch {event.epoch:.2f}, {_loss_line(event.losses)}, {event.examples_per_second:.1f} examples/s, "
        f"{duration(event.seconds_left)} left"
    )


def _count_line(event: Progress) -> str:
    total = f"/{thousands(event.total)}" if event.total is not None else ""
    return f"{thousands(event.done)}{total}"


def _loss_line(values: Mapping[str, float]) -> str:
    """Return the total loss, and its parts where there is more than one."""
    parts = {name: value for name, value in values.items() if name != "total"}
    total = values.get("total", sum(parts.values()))
    inner = ", ".join(f"{name} {value:.4g}" for name, value in parts.items())
    return f"loss {total:.4g}" + (f" ({inner})" if len(parts) > 1 else "")
