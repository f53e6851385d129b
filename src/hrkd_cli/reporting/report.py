"""``hrkd report``: write an HTML report of training runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hrkd_cli.command_settings import ReportSettings
from hrkd_cli.errors import OutputError, UsageError
from hrkd_cli.events import Note, OnEvent, ignore
from hrkd_cli.layout import REPORT, REPORT_MARKER, ROOT, STUDENT_OUT
from hrkd_cli.outputs import explain_write_errors, metrics_file

if TYPE_CHECKING:
    from hrkd_cli.reporting.run import Run


@dataclass(frozen=True, slots=True)
class RunSummary:
    """Summary of a run. Best step and average dev accuracy (0 to 1) are None before the first dev score."""

    run: str
    stage: str
    finished: bool
    steps: int
    best_step: int | None
    accuracy: float | None

    @classmethod
    def from_run(cls, run: Run) -> RunSummary:
        """Summarize a run."""
        step, accuracy = (run.best["step"], run.best["average"]["accuracy"]) if run.best else (None, None)
        return cls(str(run.path), run.stage, run.finished, len(run.steps), step, accuracy)

    def to_json(self) -> dict[str, Any]:
        """Return the summary as plain values."""
        best = None if self.best_step is None else {"step": self.best_step, "accuracy": self.accuracy}
        return {"run": self.run, "stage": self.stage, "finished": self.finished, "steps": self.steps, "best": best}


@dataclass(frozen=True, slots=True)
class ReportResult:
    """A written report: the file, its size, and a summary of each run."""

    out: str
    bytes: int
    runs: tuple[RunSummary, ...]

    @property
    def steps(self) -> int:
        """Total number of steps of all runs."""
        return sum(run.steps for run in self.runs)

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain values."""
        runs = [run.to_json() for run in self.runs]
        return {"out": self.out, "bytes": self.bytes, "steps": self.steps, "runs": runs}


def report(
    runs: str | Path | Sequence[str | Path] | None = None, *, on_event: OnEvent = ignore, **options: Any
) -> ReportResult:
    """Write a self-contained HTML page about runs: curves, dev scores, ratios, exported files.

    Args:
        runs: output folders of teach or distill, or the ``OUT.partial`` of an unfinished run; None for
            hrkd-out/student.
        on_event: called with every event.
        **options: fields of ``hrkd_cli.command_settings.ReportSettings``: ``out`` (None for ``report.html`` in the
            run's folder, or under hrkd-out for several runs) and ``force``.

    Raises:
        UsageError: no run is given, or one is given twice.
        DataError: a folder is not a run, or the run has no step yet.
        OutputError: the file exists and is not a report, or cannot be written.
    """
    settings = ReportSettings.from_options(runs=runs, **options)
    paths = [STUDENT_OUT] if settings.runs is None else list(map(Path, settings.runs))
    if not paths:
        raise UsageError("RUN: no run given; give the output folder of hrkd teach or hrkd distill")
    if len({path.resolve() for path in paths}) < len(paths):
        raise UsageError("RUN: the same folder is given twice; give each once")
    target = settings.out or (paths[0] if len(paths) == 1 else ROOT) / REPORT
    for path in paths:
        metrics_file(path)
    _check_target(target, paths, force=settings.force)
    # After the checks, because they import pandas.
    from hrkd_cli.reporting.page import render_page
    from hrkd_cli.reporting.run import Run

    loaded = [Run(path) for path in paths]
    for run in loaded:
        if not run.finished:
            on_event(Note(f"{run.path}: not finished; the report covers its first {run.last_step:,} steps"))
    content = render_page(loaded).encode()
    work = target.with_name(f".{target.name}.{os.getpid()}")
    with explain_write_errors(target, work):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            work.write_bytes(content)
            work.replace(target)
        finally:
            work.unlink(missing_ok=True)
    return ReportResult(str(target), len(content), tuple(map(RunSummary.from_run, loaded)))


def _check_target(target: Path, runs: Sequence[Path], *, force: bool) -> None:
    """Raise OutputError if the target exists and may not be replaced."""
    if not (target.exists() or target.is_symlink()):
        return
    if not target.is_file():
        raise OutputError(f"{target} is not a file and will not be replaced; choose another --out")
    if REPORT_MARKER.encode() in target.read_bytes()[:256]:
        return
    if owner := next((run for run in runs if run.resolve() in target.resolve().parents), None):
        raise OutputError(f"{target} is a file of the run {owner} and will not be replaced; choose another --out")
    if not force:
        raise OutputError(f"{target} exists and is not a report; replace it with --force or choose another --out")
