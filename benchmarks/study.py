"""Which part of the method is worth what: methods x seeds x data, and the table of docs/results.md.

    python benchmarks/study.py run --plan first --amazon AMAZON --mnli MNLI --unlabelled TEXTS \
        --teacher-model MINILM_L6 --student MINILM_L3 --out STUDY --seeds 1,2,3,4,5
    python benchmarks/study.py table STUDY --into docs/results.md

A column is a dataset and its size, with a teacher that is taught once; a row is a method (`study_plan.py` has both).
Every finished run is a file, STUDY/COLUMN/METHOD-SEED.json, with its test rows right or wrong one by one: the table is
made of these files alone. A run that is there is not made again, and one that was cut off (Ctrl-C, --limit-minutes, a
crash) goes on at its last checkpoint. Runs of a column share kept teacher outputs, in STUDY/COLUMN/work, which can be
deleted when all are made. `--plan sample` needs no data and shows in a few minutes that everything works.

Differences are paired by seed; their 95 % intervals draw seeds and test rows anew, 10,000 times. Teacher and linear
model (`--against teacher`, `floor`) are one model each: other seeds of them are not in the interval.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study_plan import COLUMNS, PLANS, UNLABELLED, PlanError, choose, problems

SOURCES = ("amazon", "mnli", "reviews12")
PATIENCE = 120.0  # seconds that a run has for its checkpoint

Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Job:
    """A column to be taught (``method`` None), or a student to be made; ``details`` is what a worker reads."""

    column: str
    method: str | None
    seed: int | None
    details: dict[str, Any]

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.column} teacher" if self.method is None else f"{self.column}/{self.method} seed {self.seed}"


def main() -> None:
    """Run or tabulate."""
    options = arguments()
    try:
        sys.exit(run(options) if options.command == "run" else tabulate(options))
    except PlanError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("run", help="make the runs that are not there yet")
    make.add_argument("--plan", choices=PLANS, default="first")
    for source in SOURCES:
        make.add_argument(f"--{source}", metavar="SOURCE", help="as hrkd prepare reads it")
    make.add_argument("--unlabelled", metavar="DIR", help="texts without labels")
    make.add_argument("--teacher-model", required=True, help="encoder that the teachers are taught from")
    make.add_argument("--large-teacher", help="another encoder, for the columns that take it")
    make.add_argument("--student", required=True, help="as in hrkd distill")
    make.add_argument("--out", required=True, type=Path, metavar="STUDY", help="folder for the runs")
    make.add_argument("--seeds", default="1,2,3,4,5")
    make.add_argument("--jobs", type=int, default=1, help="runs at a time, which share the CPU's cores")
    make.add_argument("--device", default="auto")
    make.add_argument("--only", action="append", default=[], metavar="COLUMN[/METHOD]", help="may be repeated; with *")
    make.add_argument("--limit-minutes", type=float, help="stop after that long, runs under way with a checkpoint")
    make.add_argument("--skip-unknown", action="store_true", help="leave out what this hrkd_cli does not know")
    make.add_argument("--keep", action="store_true", help="keep the students' weights, in STUDY/COLUMN/work")
    show = commands.add_parser("table", help="print the table of the runs that are there")
    show.add_argument("study", type=Path, metavar="STUDY")
    show.add_argument(
        "--against",
        default="frozen",
        metavar="METHOD",
        help="row that the others are compared with; also: teacher, floor",
    )
    show.add_argument("--into", type=Path, metavar="FILE", help="write between <!-- study:PLAN --> and <!-- /study -->")
    return parser.parse_args()


def run(options: argparse.Namespace) -> int:
    """Make what is missing; return the exit code."""
    try:
        seeds = [int(seed) for seed in options.seeds.split(",")]
    except ValueError:
        raise PlanError(f"--seeds {options.seeds}: give numbers with commas between, like 1,2,3") from None
    if options.jobs < 1:
        raise PlanError(f"--jobs {options.jobs}: at least 1")
    chosen = _known(choose(options.plan, options.only), skip=options.skip_unknown)
    _check_given(chosen, options)
    jobs = plan_jobs(chosen, seeds, options)
    wanted = sum(len(methods) for methods in chosen.values()) * len(seeds)
    missing = sum(job.method is not None for job in jobs)
    print(f"{wanted - missing} of {wanted} runs are there, {missing} to be made", flush=True)
    if not jobs:
        return 0
    report = Report(missing)
    crew = Crew(jobs, options.jobs, options.out / "log", report)
    stopped = crew.work(None if options.limit_minutes is None else 60 * options.limit_minutes)
    if stopped:
        print(f"stopped ({stopped}), {report.made} runs made, {missing - report.made} left; the same command goes on")
    elif report.failed:
        print(f"{report.failed} failed; details in {options.out / 'log'}")
    return 130 if stopped == "Ctrl-C" else int(report.failed > 0)


def _known(chosen: dict[str, list[str]], *, skip: bool) -> dict[str, list[str]]:
    """Return what the installed hrkd_cli can run.

    Raises:
        PlanError: it cannot run something, and that was not to be skipped; or nothing is left.
    """
    found = problems(chosen)
    lines = [f"{column}/{method}: {text}" for (column, method), text in found.items()]
    if found and not skip:
        raise PlanError("\n".join([*lines, "leave these out with --skip-unknown, or choose others with --only"]))
    for line in lines:
        print(f"left out: {line}", file=sys.stderr)
    left = {column: [m for m in methods if (column, m) not in found] for column, methods in chosen.items()}
    left = {column: methods for column, methods in left.items() if methods}
    if not left:
        raise PlanError("nothing is left to be run")
    return left


def _check_given(chosen: dict[str, list[str]], options: argparse.Namespace) -> None:
    """Refuse a plan whose data is not given.

    Raises:
        PlanError: a source is missing.
    """
    for column, methods in chosen.items():
        needed = [COLUMNS[column].source] if COLUMNS[column].source in SOURCES else []
        if any(UNLABELLED in COLUMNS[column].distilling(method).values() for method in methods):
            needed.append("unlabelled")
        for name in needed:
            if getattr(options, name) is None:
                raise PlanError(f"column {column} needs --{name}; give it, or choose other columns with --only")


def plan_jobs(chosen: dict[str, list[str]], seeds: Sequence[int], options: argparse.Namespace) -> list[Job]:
    """Return the jobs that are left, a column's teacher before its runs, all methods of a seed before the next seed.

    Raises:
        PlanError: something stored was made in another way.
    """
    jobs: list[Job] = []
    for column, methods in chosen.items():
        folder = options.out / column
        encoder = options.large_teacher if COLUMNS[column].large else options.teacher_model
        if encoder is None:
            raise PlanError(f"{column}: its teacher is --large-teacher; name one")
        teacher, student = Path(encoder).name, Path(options.student).name
        _check_stored(
            folder / "column.json", {"column": COLUMNS[column].to_json(), "teacher_model": teacher}, "the teacher"
        )
        common = {"column": column, "folder": str(folder), "device": options.device, "jobs": options.jobs}
        runs = []
        for seed in seeds:
            for method in methods:
                result, own = folder / f"{method}-{seed}.json", COLUMNS[column].distilling(method)
                if _check_stored(result, {"options": own, "student": student}, "the run"):
                    continue
                # A run that was cut off is only gone on with where it was the very same.
                mark = hashlib.sha256(json.dumps([own, student], sort_keys=True).encode()).hexdigest()[:8]
                details = common | {
                    "options": own,
                    "student": options.student,
                    "student_name": student,
                    "unlabelled": options.unlabelled,
                    "out": str(folder / "work" / f"{method}-{seed}-{mark}"),
                    "result": str(result),
                    "keep": options.keep,
                }
                runs.append(Job(column, method, seed, details))
        if runs or not (folder / "column.json").exists():
            source = COLUMNS[column].source
            details = {"source": getattr(options, source, source), "teacher_model": encoder}
            jobs.append(Job(column, None, None, common | details | {"teacher_name": teacher}))
        jobs += runs
    return jobs


def _check_stored(file: Path, wanted: dict[str, Any], what: str) -> bool:
    """Tell whether a result is there.

    Raises:
        PlanError: it is, and was made in another way.
    """
    if not file.exists():
        return False
    stored = json.loads(file.read_text(encoding="utf-8"))
    wanted = json.loads(json.dumps(wanted))
    if other := [name for name, value in wanted.items() if stored[name] != value]:
        raise PlanError(
            f"{file}: {what} was made with other values of {', '.join(other)}; remove it or take another --out"
        )
    return True


class Report:
    """Tells what has become of the jobs, a line each."""

    def __init__(self, runs: int) -> None:
        self.runs, self.made, self.failed = runs, 0, 0
        self.begun = time.monotonic()

    def __call__(self, job: Job, answer: Answer) -> None:
        """Tell of one job."""
        if "error" in answer:
            self.failed += 1
            print(f"{job.name}: failed: {answer['error']}", flush=True)
            return
        right = answer["right"].values()
        test = 100 * sum(row.count("1") / len(row) for row in right) / len(right)
        text = f"{job.name}: test {test:.1f}, dev {100 * answer['dev']:.1f}, {answer['seconds']:.0f} s"
        if job.method is not None:
            self.made += 1
            left = (time.monotonic() - self.begun) / self.made * (self.runs - self.made - self.failed) / 60
            text += f" ({self.made} of {self.runs}, about {max(0, left):.0f} minutes left)"
        print(text, flush=True)


class Crew:
    """Some processes that take jobs until none is left.

    Args:
        jobs: in the order in which they are to be done; a column's runs wait for its teacher.
        size: processes.
        log: folder for what they write.
        report: told of every job that is done.
    """

    def __init__(self, jobs: Sequence[Job], size: int, log: Path, report: Callable[[Job, Answer], None]) -> None:
        self.jobs, self.size, self.log, self.report = list(jobs), size, log, report
        self.change = threading.Condition()
        self.columns: dict[str, bool] = {}  # whether a column's teacher is there; missing while it is not known
        self.workers: list[Worker] = []
        self.stopping = False

    def work(self, limit: float | None) -> str | None:
        """Do the jobs; return why not all were done, None when they were.

        Args:
            limit: seconds until what is under way is stopped, with a checkpoint; None for no limit.
        """
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        self.log.mkdir(parents=True, exist_ok=True)
        threads = [threading.Thread(target=self._serve, args=(n,), daemon=True) for n in range(self.size)]
        end = None if limit is None else time.monotonic() + limit
        why = None
        try:
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                if end is not None and time.monotonic() >= end:
                    why = "--limit-minutes"
                    break
                time.sleep(0.2)
        except KeyboardInterrupt:
            why = "Ctrl-C"
        finally:
            self._stop()
        return why

    def _stop(self) -> None:
        """End the processes: the training that is under way writes a checkpoint first."""
        with self.change:
            self.stopping = True
            self.change.notify_all()
            workers = list(self.workers)
        try:
            for worker in workers:
                worker.end(signal.SIGTERM)
            end = time.monotonic() + PATIENCE
            for worker in workers:
                worker.process.wait(max(0.1, end - time.monotonic()))
        except (KeyboardInterrupt, subprocess.TimeoutExpired):
            for worker in workers:
                worker.end(signal.SIGKILL)

    def _serve(self, number: int) -> None:
        worker = None
        while (job := self._next()) is not None:
            if worker is None:
                with self.change:
                    if self.stopping:
                        return
                    worker = Worker(self.log / f"{number}.txt", self.size)
                    self.workers.append(worker)
            answer = worker.ask({**job.details, "name": job.name, "method": job.method, "seed": job.seed})
            if answer is None:
                if self.stopping:
                    return
                answer = {"error": f"its process ended with {worker.process.wait()}; see {worker.log}"}
                worker = None
            with self.change:
                if job.method is None:
                    self.columns[job.column] = "error" not in answer
                self.report(job, answer)
                self.change.notify_all()

    def _next(self) -> Job | None:
        """Return the first job that can be begun, when there is one; None when there will be none."""
        with self.change:
            while self.jobs and not self.stopping:
                lost = [job for job in self.jobs if self.columns.get(job.column) is False]
                self.jobs = [job for job in self.jobs if job not in lost]
                for job in lost:
                    self.report(job, {"error": "there is no teacher"})
                ready = next((job for job in self.jobs if job.method is None or self.columns.get(job.column)), None)
                if ready is not None:
                    self.jobs.remove(ready)
                    return ready
                if self.jobs:
                    self.change.wait()
            return None


class Worker:
    """A process of ``study_worker.py``.

    Args:
        log: file that its output is added to.
        sharing: processes that share the cores.
    """

    def __init__(self, log: Path, sharing: int) -> None:
        from hrkd_cli.evaluation.machine import usable_cpus

        self.log = log
        threads = {"OMP_NUM_THREADS": str(max(1, usable_cpus() // sharing))}
        with log.open("a", encoding="utf-8") as stream:
            self.process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("study_worker.py"))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
                encoding="utf-8",
                env={**threads, **os.environ},
                start_new_session=True,  # Ctrl-C is for the parent, which passes it on
            )

    def ask(self, job: dict[str, Any]) -> Answer | None:
        """Have a job done; None when the process has ended instead."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(job) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except (OSError, ValueError):
            return None
        answer: Answer | None = json.loads(line) if line.endswith("\n") else None
        return answer

    def end(self, with_signal: int) -> None:
        """Send a signal, where there is somebody to get it."""
        if self.process.poll() is None:
            self.process.send_signal(with_signal)


def tabulate(options: argparse.Namespace) -> int:
    """Print the tables, or write them into a file; return the exit code."""
    from study_table import put_into, tables

    found = tables(options.study, options.against)
    if options.into is None:
        print("\n\n".join(found.values()))
        return 0
    text, done = put_into(options.into.read_text(encoding="utf-8"), found)
    if not done:
        marks = " or ".join(f"<!-- study:{plan} -->" for plan in found)
        raise PlanError(f"{options.into}: no {marks} with <!-- /study --> after it")
    unfinished = options.into.with_name(f".{options.into.name}")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(options.into)
    print(f"{options.into}: {', '.join(done)} written")
    return 0


if __name__ == "__main__":
    main()
