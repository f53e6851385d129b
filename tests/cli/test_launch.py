"""``--processes``: which error of several processes is reported."""

import signal
import subprocess
import sys
import time

from hrkd_cli import errors
from hrkd_cli.cli import error_report, launch


def test_a_process_that_the_launcher_terminated_is_not_the_cause(tmp_path, monkeypatch):
    """Rank 1 failed first; rank 0 was ended before it could say the same."""
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    monkeypatch.setenv(error_report.LAUNCHED, "1")
    failed = {}
    for rank, error in ((0, error_report.Terminated()), (1, errors.UsageError("--max-length 5000: too long"))):
        file = tmp_path / f"{rank}.json"
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
        failed[rank] = ProcessFailure(rank, 1, error_report.report_error(error, "hrkd teach"), str(file))
    silent = ProcessFailure(1, 1, -signal.SIGKILL, "no file")
    for failures, line, code in (
        (failed, "rank 1: --max-length 5000: too long (see hrkd teach --help)", 2),
        ({0: failed[0]}, "terminated", 143),
        ({0: failed[0], 1: silent}, "rank 1: the process was killed by SIGKILL; continue from the last checkpoint", 1),
    ):
        cause = launch._first_error(failures)
        assert str(cause).startswith(line)
        assert cause.exit_code == code


def test_far_more_processes_than_cores_are_refused(monkeypatch, hrkd, engines):
    monkeypatch.setattr(launch, "usable_cpus", lambda: 2)
    for command in (["teach", "--model", "m"], ["distill"]):
        ran = hrkd(*command, "--processes", "99")
        assert ran.code == 2
        assert "--processes 99: this machine has 2 cores, so give at most 8 (see hrkd" in ran.err
        assert not engines[command[0]].calls
    with monkeypatch.context() as patch:
        patch.setattr("torch.distributed.run.run", lambda args: engines["teach"](args.nproc_per_node))
        hrkd("teach", "--model", "m", "--processes", "8")
    assert len(engines["teach"].calls) == 1


LAUNCHER = """
import os, subprocess, sys, time
from hrkd_cli.cli.error_report import LAUNCHED
environment = {**os.environ, LAUNCHED: str(os.getpid())}
subprocess.Popen([sys.executable, "-c", sys.argv[1]], env=environment)
time.sleep(60)
"""
RANK = """
import time
from hrkd_cli.cli import main
def wait(*_):
    print("started", flush=True)
    time.sleep(60)
main.main = wait
main.run()
"""


def test_a_process_ends_with_its_launcher():
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER, RANK], stdout=subprocess.PIPE, text=True)
    assert launcher.stdout.readline() == "started\n"
    launcher.kill()
    launcher.wait()
    started = time.monotonic()
    with launcher.stdout as pipe:
        assert pipe.read() == ""  # until its last writer, the rank, has ended
    assert time.monotonic() - started < 30
