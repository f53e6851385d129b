"""Progress of a long job: log lines and, on a terminal, progress bars below them."""

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

LINES_PER_RUN = 20  # approximate number of progress lines of a training run
MAX_INTERVAL = 30.0  # maximum seconds between two lines
WIDE = 130  # columns of a terminal that has room for a long bar and all losses
MAX_NAMED = 5  # domains that a line names; of more, the worst and the best
MIN_INTERVAL = 1.0  # minimum seconds between two progress lines; short runs get fewer lines

Clock = Callable[[], float]


def make_display(console: Console, clock: Clock = time.monotonic) -> AbstractContextManager[OnEvent]:
    """Return a live display if stderr is a terminal, else a plain one; with ``--quiet``, always a plain one."""
    if is_terminal(console.err) and not console.quiet:
        return LiveDisplay(console, clock)
    return contextlib.nullcontext(PlainDisplay(console, clock))


class PlainDisplay:
    """Writes progress lines to stderr, at limited intervals."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._steps = self._lines_due = 0
        self._last_line = self._task_start = clock()
        self._first = Progress("")  # event of the current task

    def __call__(self, event: Event) -> None:
        """Write a line about the event, unless the last progress line is too recent."""
        if isinstance(event, Progress) and (event.task != self._first.task or event.done <= self._first.done):
            self._first, self._task_start = event, self._clock()
        match event:
            case Note():
                self._write(event.text, warning=event.warning)
            case StageStarted():
                self._steps, self._lines_due = event.steps, 0
                domains = plural(len(event.domains), "domain")
                if len(event.domains) <= MAX_NAMED:
                    domains += f": {', '.join(event.domains)}"
                steps = f"{plural(event.steps, 'step')} ({plural(event.epochs, 'epoch')}, {domains})"
                cost = f"about {duration(event.seconds)} and {byte_size(event.disk_bytes)} on disk"
                self._write(f"{event.stage}: {steps}, {cost}")
            case StepDone() if self._is_due(event):
                self._write(f"{event.stage}: {_step_line(event, self._steps)}")
            case DevScored():
                average = f"dev {event.metric} {percent(event.average)}%"
                score = f"step {thousands(event.step)}, {average} ({_domain_scores(event.domains)})"
                rank = ", best so far" if event.is_best else ", equal to the best and kept" if event.is_kept else ""
                self._write(f"{event.stage}: {score}{rank}")
            case StageDone():
                steps = f"{plural(event.steps, 'step')} in {duration(event.seconds)}"
                self._write(f"{event.stage}: done, {steps}, in {event.out}")
            case Progress() if self._is_due(event):
                self._write(": ".join(filter(None, (event.task, self._count_line(event)))))

    def _count_line(self, event: Progress) -> str:
        """Return count, total and time left of a task; empty for a task that cannot be counted."""
        if event.total is None:
            return thousands(event.done) if event.done else ""
        line = f"{thousands(event.done)}/{thousands(event.total)}"
        if not self._first.done < event.done < event.total:
            return line
        seconds_per_unit = (self._clock() - self._task_start) / (event.done - self._first.done)
        seconds_left = seconds_per_unit * (event.total - event.done)
        return f"{line}, {duration(seconds_left)} left"

    def _write(self, text: str, *, warning: bool = False) -> None:
        self._last_line = self._clock()
        self._console.write_note(text, warning=warning)

    def _is_due(self, event: StepDone | Progress) -> bool:
        """Return whether a step or a count gets a line."""
        elapsed = self._clock() - self._last_line
        if isinstance(event, Progress):
            is_complete = event.total is not None and event.done >= event.total
            is_start = event == Progress(event.task)
            return is_start or elapsed >= MAX_INTERVAL or (is_complete and self._console.verbose)
        lines_due = event.step * LINES_PER_RUN // self._steps
        is_due = elapsed >= MAX_INTERVAL or (lines_due > self._lines_due and elapsed >= MIN_INTERVAL)
        if is_due:
            self._lines_due = lines_due
        return is_due or self._console.verbose


class LiveDisplay(PlainDisplay):
    """Adds progress bars below the lines: one for a training run, one for any other current task."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars
        from rich.table import Column

        super().__init__(console, clock)
        # While the bars are shown, Rich writes lines for sys.stderr above them.
        rich = RichConsole(file=console.err, highlight=False)
        self._is_wide = rich.width >= WIDE
        columns = (
            SpinnerColumn(),
            TextColumn(
                "{task.description}", markup=False, table_column=Column(max_width=rich.width // 3, no_wrap=True)
            ),
            BarColumn(bar_width=30 if self._is_wide else 10),
            TextColumn("{task.fields[text]}", markup=False),
            TimeElapsedColumn(),
        )
        self.bars = Bars(*columns, console=rich, transient=True, redirect_stdout=False, refresh_per_second=8)
        self._tasks: dict[str, TaskID] = {}
        self._stage = ""  # the training run in progress
        self._show("starting")

    def __enter__(self) -> Self:
        """Show the bars."""
        self.bars.start()
        return self

    def __exit__(self, *_error: object) -> None:
        """Remove the bars."""
        self.bars.stop()

    def __call__(self, event: Event) -> None:
        """Write a line about the event, if any, and update the bars."""
        super().__call__(event)
        match event:
            case Progress():
                self._show(event.task, event.done, event.total, self._count_line(event))
            case StageStarted():
                self._stage = event.stage
                text = f"step 0/{thousands(event.steps)}, {duration(event.seconds)} left"
                self._show(event.stage, 0, event.steps, text)
            case StepDone():
                # On two lines, to leave room for the bar.
                text = _step_line(event, self._steps, is_short=not self._is_wide).replace(", loss", "\nloss", 1)
                self._show(event.stage, event.step, self._steps, text)
            case StageDone():
                self._stage = ""
                self._show("finishing")

    def _show(self, task: str, done: int = 0, total: int | None = None, text: str = "") -> None:
        """Update the bar of a task, and remove all others except the training run's."""
        for other in self._tasks.keys() - {task, self._stage or task}:
            self.bars.remove_task(self._tasks.pop(other))
        if task not in self._tasks:
            self._tasks[task] = self.bars.add_task(task, text="")
        self.bars.update(self._tasks[task], completed=done, total=total, text=text)

    def _is_due(self, event: StepDone | Progress) -> bool:
        return self._console.verbose and isinstance(event, StepDone)


def _step_line(event: StepDone, steps: int, *, is_short: bool = False) -> str:
    """Return a step out of ``steps``; unless it is to be short, with all losses and the speed."""
    terms = [f"{name} {value:.4g}" for name, value in event.losses.items() if name != "total"]
    loss = f"loss {event.losses['total']:.4g}"
    if not is_short:
        loss += f" ({', '.join(terms)})" if len(terms) > 1 else ""
        loss += f", {event.examples_per_second:.1f} examples/s"
    progress = f"step {thousands(event.step)}/{thousands(steps)} ({percent(event.step / steps, 0)}%)"
    return f"{progress}, epoch {event.epoch:.2f}, {loss}, {duration(event.seconds_left)} left"


def _domain_scores(scores: Mapping[str, float]) -> str:
    """Return the score of each domain, or of many domains the lowest and the highest."""
    named = [f"{name} {percent(value)}" for name, value in scores.items()]
    if len(scores) <= MAX_NAMED:
        return ", ".join(named)
    values = [*scores.values()]
    lowest, highest = min(values), max(values)
    if lowest == highest:
        return f"all {len(scores)} domains the same"
    return f"{named[values.index(lowest)]} to {named[values.index(highest)]}"
