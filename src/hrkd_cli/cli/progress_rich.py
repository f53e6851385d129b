"""Progress drawn with Rich on a terminal: a bar, losses, and a table of the domains that changes in place.

What should stay (notes, dev scores, the end of a stage) is written above the moving part.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from hrkd_cli.cli.console import Console
from hrkd_cli.cli.formatting import duration, percent, thousands
from hrkd_cli.cli.progress import Clock, counted, done, losses, mean_ratios, scored, started, stepped
from hrkd_cli.events import DevScored, Event, Note, Progress, StageDone, StageStarted, StepDone

MOST_DOMAINS = 12
"""Rows of the table of domains: the moving part must fit a small terminal."""
FRAMES_PER_SECOND = 8


class LiveDisplay:
    """Draws the state of the run a few times a second."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self._rich = console.rich(console.err)
        self._verbose = console.verbose
        self._clock = clock
        self._began = clock()
        self._doing = "starting"
        self._stage: StageStarted | None = None
        self._step: StepDone | None = None
        self._score: DevScored | None = None
        self._best: DevScored | None = None
        self._count: Progress | None = None
        self._spinner = Spinner("dots", style="cyan")
        self._waiting_spinner = Spinner("dots", style="cyan")
        self._live = Live(
            console=self._rich,
            get_renderable=self._draw,
            refresh_per_second=FRAMES_PER_SECOND,
            transient=True,
            redirect_stdout=False,
        )

    def __enter__(self) -> Self:
        """Take the terminal's last lines."""
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the moving part and give the terminal back."""
        self._live.stop()

    def __call__(self, event: Event) -> None:
        """Take over the event's state, and write above what should stay."""
        match event:
            case Note(text=text, warning=True):
                self._rich.print(Text.assemble(("warning: ", "yellow"), text))
            case Note(text=text):
                self._doing, self._count = text, None
                self._rich.print(Text(text))
            case StageStarted():
                self._stage, self._step, self._score, self._best, self._count = event, None, None, None, None
                self._rich.print(Text(started(event), style="bold"))
            case StepDone():
                self._step, self._count = event, None
                if self._verbose:
                    self._rich.print(Text(stepped(event, self._stage.steps if self._stage else 0), style="dim"))
            case DevScored():
                self._score = event
                self._best = event if event.is_best else self._best
                self._rich.print(Text(scored(event), style="green" if event.is_best else ""))
            case StageDone():
                self._stage, self._doing = None, "finishing"
                self._rich.print(Text(done(event), style="bold"))
            case Progress():
                self._count = event

    def _draw(self) -> RenderableType:
        if self._stage is None:
            return self._counting() if self._count else self._waiting()
        parts: list[RenderableType] = [self._bar(self._stage)]
        if self._step:
            parts.append(Text(f"  {losses(self._step.losses)}, rate {self._step.learning_rate:.2g}"))
        if self._score or (self._step and self._step.ratios):
            parts.append(self._domains(self._stage))
        if self._count:
            parts.append(self._counting())
        return Group(*parts)

    def _waiting(self) -> RenderableType:
        waited = duration(self._clock() - self._began)
        self._waiting_spinner.update(text=Text(f"{self._doing} ({waited})", style="dim"))
        return self._waiting_spinner

    def _counting(self) -> RenderableType:
        count = self._count
        assert count is not None
        line = _line()
        bar = ProgressBar(total=count.total, completed=count.done, width=30, pulse=count.total is None)
        line.add_row(self._spinner, bar, Text(counted(count)))
        return line

    def _bar(self, stage: StageStarted) -> RenderableType:
        step = self._step.step if self._step else 0
        text = f"step {thousands(step)}/{thousands(stage.steps)}"
        if self._step:
            text += f"  epoch {self._step.epoch:.2f}/{stage.epochs}  {self._step.examples_per_second:.1f} examples/s"
        left = self._step.seconds_left if self._step else stage.seconds
        line = _line()
        bar = ProgressBar(total=max(stage.steps, 1), completed=step, width=30)
        line.add_row(self._spinner, Text(stage.stage, style="bold"), bar, Text(f"{text}  {duration(left)} left"))
        return line

    def _domains(self, stage: StageStarted) -> RenderableType:
        """Draw ratio, last dev score and best dev score of every domain."""
        ratios = mean_ratios(self._step, stage.domains) if self._step else {}
        table = Table(box=None, padding=(0, 2), header_style="dim")
        table.add_column("domain", style="cyan", overflow="fold")
        headings = [("ratio", bool(ratios)), ("dev, %", self._score is not None), ("best, %", self._best is not None)]
        for heading, shown in headings:
            if shown:
                table.add_column(heading, justify="right")
        for name in stage.domains[:MOST_DOMAINS]:
            cells = [f"{ratios[name]:.3f}"] if ratios else []
            scores = [score.domains.get(name) for score in (self._score, self._best) if score]
            cells += ["-" if score is None else percent(score) for score in scores]
            table.add_row(escape(name), *cells)
        if len(stage.domains) > MOST_DOMAINS:
            table.add_row(f"... and {len(stage.domains) - MOST_DOMAINS} more")
        return table


def _line() -> Table:
    return Table.grid(padding=(0, 1))
