import os
import signal
import subprocess
import sys
from importlib import metadata

import hrkd_cli

COMMANDS = ["prepare", "teach", "distill", "eval", "export", "predict", "serve", "report", "info", "demo"]


def test_without_arguments_the_help_is_shown(hrkd):
    ran = hrkd()
    assert ran.code == 0
    assert ran.out.startswith("Usage: hrkd [OPTIONS] COMMAND")
    assert all(f"  {name} " in ran.out for name in COMMANDS)
    assert "..." not in ran.out.partition("Commands:")[2]  # no help text is cut off
    assert ran.err == ""


def test_version_is_that_of_the_package(hrkd):
    ran = hrkd("--version")
    assert (ran.code, ran.out) == (0, f"hrkd {hrkd_cli.__version__}\n")
    assert metadata.version("hrkd-cli") == hrkd_cli.__version__


def test_the_package_runs_as_a_module():
    ran = subprocess.run([sys.executable, "-m", "hrkd_cli", "--version"], capture_output=True, text=True, check=True)
    assert ran.stdout == f"hrkd {hrkd_cli.__version__}\n"


def test_sigterm_runs_clean_up(hrkd, engines):
    cleaned = []

    def stopped(*_args, **_options):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        except Exception:  # what an engine may do around a step must not swallow the signal
            cleaned.append("swallowed")
        finally:
            cleaned.append("cleaned")

    sys.modules["hrkd_cli.teaching.teach"].teach = stopped
    ran = hrkd("teach", "--model", "m")
    assert (ran.code, ran.err, cleaned) == (143, "hrkd teach: terminated\n", ["cleaned"])


def test_a_closed_pipe_is_silent():
    read, write = os.pipe()
    os.close(read)
    ran = subprocess.run(
        [sys.executable, "-m", "hrkd_cli", "--help"], stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert (ran.returncode, ran.stderr) == (1, b"")


def test_characters_that_the_stream_cannot_encode_are_escaped():
    ran = subprocess.run(
        [sys.executable, "-m", "hrkd_cli", "kein-\N{SNOWMAN}"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        check=False,
    )
    assert ran.returncode == 2
    assert rb"\u2603" in ran.stderr
