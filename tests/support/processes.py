"""Run the program in separate processes."""

import os
import signal
import subprocess
import sys


def start(*words, cwd, program=("-m", "hrkd_cli"), env=None):
    """Start ``hrkd WORDS``, or another Python program, in ``cwd``, which is created if missing."""
    cwd.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, *program, *map(str, words)],
        cwd=cwd,
        env={**(env or os.environ), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_default_sigint,
    )


def _default_sigint():
    """Let SIGINT interrupt a process, also if the tests run in the background, where shells have it ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(process, code=0):
    """Wait for a process, check its exit code, and return its stdout and stderr."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    return out, err
