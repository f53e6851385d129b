"""Worker processes: tasks by name, jobs and answers as JSON, answers in the order of the jobs.

Each worker is a Python of its own that reads jobs from its standard input, so nothing of the program that called is
imported again (a script needs no ``if __name__ == "__main__"``), and a worker whose parent is gone ends by itself.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from hrkd_cli import errors

Job = dict[str, Any]
Answer = Any

_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from hrkd_cli.data.crew import serve; serve()"
# Arrow's own allocators keep what is freed, which with a process a core adds up.
_ENVIRONMENT = {"ARROW_DEFAULT_MEMORY_POOL": "system"}
_AHEAD = 2
"""Jobs in work or waiting, for each worker: while one is done the next is at hand."""


class Crew:
    """Runs tasks in worker processes, or in this process when there are none."""

    def __init__(self, workers: int) -> None:
        """Hire workers; they start when the block is entered.

        Args:
            workers: number of processes; below 2, all is done in this one.
        """
        self._size = workers if workers > 1 and sys.executable else 0
        self._workers: list[_Worker] = []
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._threads: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        """Start the workers."""
        try:
            for _ in range(self._size):
                self._workers.append(_Worker())
                self._idle.put(self._workers[-1])
        except BaseException:
            self._end()
            raise
        if self._size:
            self._threads = ThreadPoolExecutor(self._size, thread_name_prefix="hrkd-crew")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the workers, whatever they are doing."""
        self._end()

    def map(self, task: str, jobs: Iterable[Job]) -> Iterator[tuple[Job, Answer]]:
        """Yield every job with its answer, in the order of the jobs, of which few are taken ahead of the answers.

        Args:
            task: a key of ``tasks.TASKS``.
            jobs: the task's arguments, such as JSON can hold.

        Raises:
            HrkdError: what the task raised for the first job that failed; or a worker is gone.
        """
        if self._threads is None:
            from hrkd_cli.data.tasks import TASKS

            for job in jobs:
                yield job, TASKS[task](**job)
            return
        waiting: deque[tuple[Job, Future[Answer]]] = deque()
        for job in jobs:
            waiting.append((job, self._threads.submit(self._do, task, job)))
            if len(waiting) >= _AHEAD * self._size:
                first, answer = waiting.popleft()
                yield first, answer.result()
        for job, answer in waiting:
            yield job, answer.result()

    def _do(self, task: str, job: Job) -> Answer:
        worker = self._idle.get()
        try:
            return worker.do(task, job)
        finally:
            self._idle.put(worker)

    def _end(self) -> None:
        for worker in self._workers:
            worker.end()
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
        self._workers = []


class _Worker:
    """A worker process, seen from its parent."""

    def __init__(self) -> None:
        # A session of its own: Ctrl-C is for the parent, which then ends its workers.
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            env=_ENVIRONMENT | os.environ,
        )

    def do(self, task: str, job: Job) -> Answer:
        """Have a job done."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = b""
        with contextlib.suppress(OSError, ValueError):  # a broken pipe: the worker is gone
            self._process.stdin.write(json.dumps([task, job]).encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise errors.HrkdError(
                f"a worker process was stopped (status {self._process.wait()}), perhaps for lack of memory; "
                "free some and run again"
            )
        answer = json.loads(line)
        if "error" in answer:
            raise _rebuilt(answer["error"])
        return answer["answer"]

    def end(self) -> None:
        """Stop the process, and wait until it is gone."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()


def serve() -> None:
    """Do jobs until there is no parent: what a worker process runs."""
    from hrkd_cli.data.tasks import TASKS

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where there are no sessions, Ctrl-C reaches workers too
    # Rows are many objects and no cycles: looking for cycles as often as usual takes a tenth of the time.
    gc.set_threshold(100_000)
    # What a library prints must not pass for an answer.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(lines,), daemon=True).start()
    while True:
        task, job = json.loads(lines.get())
        try:
            answer = {"answer": TASKS[task](**job)}
        except Exception as error:
            answer = {"error": _described(error)}
        try:
            out.write(json.dumps(answer).encode() + b"\n")
            out.flush()
        except OSError:
            os._exit(0)  # as in _listen


def _listen(lines: queue.SimpleQueue[bytes]) -> None:
    for line in sys.stdin.buffer:
        lines.put(line)
    os._exit(0)  # the parent is gone, and with it whoever wants the answer


def _described(error: Exception) -> dict[str, Any]:
    if isinstance(error, errors.HrkdError):
        return {"kind": type(error).__name__, "text": str(error)}
    if isinstance(error, OSError):
        return {"kind": "OSError", "errno": error.errno, "text": error.strerror or str(error)}
    return {"kind": "", "text": traceback.format_exc()}


def _rebuilt(error: dict[str, Any]) -> Exception:
    if error["kind"] == "OSError":
        return OSError(error["errno"], error["text"])
    kind = getattr(errors, error["kind"], None) if error["kind"] else None
    return kind(error["text"]) if kind is not None else RuntimeError(f"in a worker process:\n{error['text']}")
