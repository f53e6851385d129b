import errno
import os
import signal as signals
import subprocess
import sys
from pathlib import Path

import pytest

from hrkd_cli.data.crew import Crew
from hrkd_cli.errors import DataError, HrkdError


def pieces(folder, count):
    """Jobs that survey a file of one JSON object each."""
    for i in range(count):
        path = folder / f"{i}.jsonl"
        if not path.exists():
            path.write_text(f'{{"key {i}": 1}}\n')
        size = path.stat().st_size
        piece = {"path": str(path), "reader": "jsonl", "start": 0, "stop": size, "line": 1, "bytes": size}
        yield {"piece": piece}


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_answers_come_in_the_order_of_the_jobs(tmp_path, workers):
    with Crew(workers) as crew:
        for _ in range(2):
            answers = list(crew.map("survey", pieces(tmp_path, 20)))
            assert [answer for _, answer in answers] == [[f"key {i}"] for i in range(20)]
            assert [job for job, _ in answers] == list(pieces(tmp_path, 20))


@pytest.mark.parametrize(("workers", "most"), [(1, 1), (2, 4), (3, 6)])
def test_few_jobs_are_taken_ahead_of_the_answers(tmp_path, workers, most):
    taken, given, ahead = 0, 0, []

    def jobs():
        nonlocal taken
        for job in pieces(tmp_path, 40):
            taken += 1
            ahead.append(taken - given)
            yield job

    with Crew(workers) as crew:
        for _ in crew.map("survey", jobs()):
            given += 1
    assert given == 40
    assert max(ahead) == most


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_error_in_the_order_of_the_jobs_is_raised(tmp_path, workers):
    jobs = list(pieces(tmp_path, 9))
    for broken in (4, 6):
        (tmp_path / f"{broken}.jsonl").write_text("{\n")
    with Crew(workers) as crew:
        answers = crew.map("survey", jobs)
        assert [next(answers)[1] for _ in range(4)] == [[f"key {i}"] for i in range(4)]
        with pytest.raises(DataError, match=r"4.jsonl:1: not valid JSON"):
            next(answers)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_in_a_worker_is_an_os_error_here(tmp_path, workers):
    (job,) = pieces(tmp_path, 1)
    rules = {"roles": ["text"], "wanted": [0], "domain": "d", "split": None}
    rules |= {"split_named": False, "label": "x", "no_label": None}
    job |= {"columns": ["key 0"], "rules": rules, "pair": False, "wanted": None, "stem": str(tmp_path / "no" / "0")}
    with Crew(workers) as crew, pytest.raises(OSError) as error:
        list(crew.map("spool", [job, job]))
    assert error.value.errno == errno.ENOENT


def test_an_error_nobody_foresaw_shows_where_it_was(tmp_path):
    (job,) = pieces(tmp_path, 1)
    job["piece"]["reader"] = "nobody"
    with Crew(2) as crew, pytest.raises(RuntimeError, match=r"(?s)in a worker process:.*KeyError: 'nobody'"):
        list(crew.map("survey", [job]))


def test_a_worker_that_is_gone_is_one_line(tmp_path):
    with Crew(2) as crew:
        for worker in crew._workers:
            worker._process.kill()
        with pytest.raises(
            HrkdError, match=r"a worker process was stopped .status -9., perhaps for lack of memory"
        ) as e:
            list(crew.map("survey", pieces(tmp_path, 3)))
    assert "\n" not in str(e.value)


def test_no_worker_is_left_when_the_block_ends(tmp_path):
    crew = Crew(2)
    with crew:
        workers = list(crew._workers)
        next(crew.map("survey", pieces(tmp_path, 9)))
    assert [worker._process.returncode for worker in workers] == [-9, -9]


@pytest.mark.parametrize("signal", ["SIGINT", "SIGKILL"])
def test_no_worker_outlives_its_parent(tmp_path, signal):
    list(pieces(tmp_path, 60))
    code = f"""
import os, pathlib, signal, sys
from hrkd_cli.data.crew import Crew
from test_crew import pieces
with Crew(2) as crew:
    for job, _ in crew.map("survey", pieces(pathlib.Path(sys.argv[1]), 60)):
        if job["piece"]["path"].endswith("9.jsonl"):
            os.kill(os.getpid(), signal.{signal})
"""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", code, tmp_path]
    # Workers hold standard error too: its end is seen only when all of them are gone.
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == -getattr(signals, signal)
    assert done.stderr.count("Traceback") == (signal == "SIGINT")
