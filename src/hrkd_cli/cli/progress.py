"""Progress for a log: a line now and then, few enough to read. On a terminal ``progress_rich`` draws instead."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from hrkd_cli.cli.console import Console, is_terminal
from hrkd_cli.cli.formatting import duration, percent, plural, size, thousands
from hrkd_cli.events import DevScored, Event, Note, OnEvent, Progress, StageDone, StageStarted, StepDone

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
        from hrkd_cli.cli.progress_rich import LiveDisplay

        return LiveDisplay(console, clock)
    return contextlib.nullcontext(PlainDisplay(console, clock))


class PlainDisplay:
    """Writes lines that read well in a log."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._steps = 0
        self._mark = 0
        self._last = clock()

    def __call__(self, event: Event) -> None:
        """Write a line about the event, or nothing when the last line is recent."""
        match event:
            case Note(text=text, warning=True):
                self._console.warn(text)
            case Note(text=text):
                self._say(text)
            case StageStarted():
                self._steps, self._mark = event.steps, 0
                self._say(started(event))
            case StepDone():
                self._step(event)
            case DevScored():
                self._say(scored(event))
            case StageDone():
                self._say(done(event))
            case Progress():
                self._progress(event)

    def _say(self, text: str) -> None:
        self._last = self._clock()
        self._console.note(text)

    def _step(self, event: StepDone) -> None:
        elapsed = self._clock() - self._last
        mark = event.step * LINES_PER_RUN // max(self._steps, 1)
        due = (mark > self._mark and elapsed >= SHORTEST_PAUSE) or elapsed >= PAUSE
        if due or self._console.verbose:
            self._mark = mark
            self._say(stepped(event, self._steps))

    def _progress(self, event: Progress) -> None:
        whole = event.total is not None and event.done >= event.total
        if self._clock() - self._last >= PAUSE or (whole and self._console.verbose):
            self._say(counted(event))


def started(event: StageStarted) -> str:
    """Return the line before a run: how much there is to do, how long it takes, how much it writes."""
    return (
        f"{event.stage}: {plural(event.steps, 'step')} ({plural(event.epochs, 'epoch')}, "
        f"{plural(len(event.domains), 'domain')}: {', '.join(event.domains)}), "
        f"about {duration(event.seconds)} and {size(event.disk_bytes)} on disk"
    )


def stepped(event: StepDone, steps: int) -> str:
    """Return the line about a step."""
    share = f" ({percent(event.step / steps, 0)} %)" if steps else ""
    parts = [
        f"{event.stage}: step {thousands(event.step)}/{thousands(steps)}{share}",
        f"epoch {event.epoch:.2f}",
        losses(event.losses),
        f"{event.examples_per_second:.1f} examples/s",
        f"{duration(event.seconds_left)} left",
    ]
    return ", ".join(part for part in parts if part)


def scored(event: DevScored) -> str:
    """Return the line about a dev score."""
    by_domain = ", ".join(f"{name} {percent(value)}" for name, value in event.domains.items())
    best = ", best so far" if event.is_best else ""
    score = f"dev {event.metric} {percent(event.average)} %"
    return f"{event.stage}: step {thousands(event.step)}, {score} ({by_domain}){best}"


def done(event: StageDone) -> str:
    """Return the line after a run."""
    return f"{event.stage}: done, {plural(event.steps, 'step')} in {duration(event.seconds)}, in {event.out}"


def counted(event: Progress) -> str:
    """Return the line about something countable."""
    total = f"/{thousands(event.total)}" if event.total is not None else ""
    return f"{event.task}: {thousands(event.done)}{total}"


def losses(values: Mapping[str, float]) -> str:
    """Return the total loss, and its parts where there is more than one."""
    parts = {name: value for name, value in values.items() if name != "total"}
    total = values.get("total", sum(parts.values()))
    inner = ", ".join(f"{name} {value:.4g}" for name, value in parts.items())
    return f"loss {total:.4g}" + (f" ({inner})" if len(parts) > 1 else "")


def mean_ratios(event: StepDone, domains: tuple[str, ...]) -> dict[str, float]:
    """Return each domain's ratio, averaged over the student's layers; empty where there is no graph."""
    if not event.ratios:
        return {}
    layers = len(event.ratios)
    return {name: sum(layer[i] for layer in event.ratios) / layers for i, name in enumerate(domains)}
