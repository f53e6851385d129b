import errno
import os
import signal
import subprocess
import sys
from importlib import metadata

import pytest

import hrkd_cli
from hrkd_cli import errors
from hrkd_cli.cli.main import command_tree

COMMANDS = ["prepare", "teach", "distill", "eval", "export", "predict", "report", "info"]


def test_no_arguments_show_the_help(hrkd):
    ran = hrkd()
    assert ran.code == 0
    assert ran.out.startswith("Usage: hrkd [OPTIONS] COMMAND")
    assert all(f"  {name} " in ran.out for name in COMMANDS)
    assert ran.err == ""


def test_version(hrkd):
    ran = hrkd("--version")
    assert (ran.code, ran.out) == (0, f"hrkd {hrkd_cli.__version__}\n")
    assert metadata.version("hrkd-cli") == hrkd_cli.__version__


def test_the_module_is_the_program():
    ran = subprocess.run([sys.executable, "-m", "hrkd_cli", "--version"], capture_output=True, text=True, check=True)
    assert ran.stdout == f"hrkd {hrkd_cli.__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_the_shared_options(hrkd, name):
    page = hrkd(name, "--help").out
    for option in ("--json", "-q, --quiet", "-v, --verbose", "--config", "-h, --help"):
        assert option in page.partition("Shared options:")[2], option


def test_every_option_has_a_help_text():
    for name, found in command_tree().commands.items():
        for parameter in found.params:
            assert parameter.help, f"{name}: {parameter.name}"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["distil"], "hrkd: no such command 'distil'. Did you mean 'distill'? (see hrkd --help)"),
        (["--foo"], "hrkd: no such option: --foo (see hrkd --help)"),
        (
            ["distill", "--means-of", "x"],
            "no such option: --means-of; did you mean --domains or --means? (see hrkd distill --help)",
        ),
        (
            ["distill", "--graph", "froze"],
            "--graph: 'froze' is not one of learned, frozen, uniform, none; did you mean frozen?",
        ),
        (["distill", "--epochs", "abc"], "hrkd distill: --epochs: 'abc' is not a whole number"),
        (["teach", "--learning-rate", "fast"], "--learning-rate: 'fast' is not a number"),
        (["distill", "--epochs", "0"], "--epochs: 0 is not at least 1"),
        (["distill", "--epochs"], "hrkd distill: option '--epochs' requires an argument"),
        (["eval", "--threads", "0"], "hrkd eval: --threads: 0 is "),
        (["prepare"], "hrkd prepare: missing argument SOURCE"),
        (["prepare", "a", "b"], "got unexpected extra argument(s) (b)"),
        (["prepare", "a", "--domains", "x,,y"], "--domains: 'x,,y' has an empty name"),
        (["teach"], "hrkd teach: --model is required"),
        (["distill", "--method", "tinybert", "--graph", "frozen"], "--graph"),
    ],
)
def test_usage_errors_are_one_line(hrkd, engines, words, line):
    ran = hrkd(*words)
    assert ran.code == 2
    assert ran.out == ""
    assert line in ran.err
    assert ran.err.count("\n") == 1
    assert not any(engine.calls for engine in engines.values())


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (errors.DataError("a.csv:3: no label"), 1, "hrkd teach: a.csv:3: no label\n"),
        (errors.UsageError("--dev: 2 is too much"), 2, "hrkd teach: --dev: 2 is too much (see hrkd teach --help)\n"),
        (errors.ModelError("two\nlines"), 1, "hrkd teach: two lines\n"),
        (errors.GateError("int8 lost 3 points"), 3, "hrkd teach: int8 lost 3 points\n"),
        (KeyboardInterrupt(), 130, "hrkd teach: interrupted\n"),
        (OSError(errno.ENOSPC, "No space left on device", "x/y"), 1, "no space left on the disk: x/y; free some"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 1, "hrkd teach: permission denied: x\n"),
        (FileNotFoundError(errno.ENOENT, "No such file", "x"), 1, "hrkd teach: No such file: x\n"),
        (MemoryError(), 1, "hrkd teach: out of memory; free some memory and continue from a checkpoint with --resume"),
        (EOFError("torn file"), 1, "internal error: EOFError: torn file"),
        (ValueError("odd\nthing"), 1, "hrkd teach: internal error: ValueError: odd thing; set HRKD_DEBUG=1"),
    ],
)
def test_exit_codes(hrkd, engines, error, code, line):
    engines["teach"].error = error
    ran = hrkd("teach", "--model", "m")
    assert ran.code == code
    assert ran.out == ""
    assert line in ran.err
    assert len(ran.err.strip().splitlines()) == 1


def test_debug_shows_the_traceback(hrkd, engines, monkeypatch):
    monkeypatch.setenv("HRKD_DEBUG", "1")
    engines["teach"].error = ValueError("odd thing")
    ran = hrkd("teach", "--model", "m")
    assert ran.code == 1
    assert "Traceback (most recent call last)" in ran.err
    assert ran.err.splitlines()[-1].startswith("hrkd teach: internal error: ValueError: odd thing")


def test_sigterm_cleans_up(hrkd, engines):
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


def test_a_reader_that_leaves_is_no_error():
    read, write = os.pipe()
    os.close(read)
    ran = subprocess.run(
        [sys.executable, "-m", "hrkd_cli", "--help"], stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert (ran.returncode, ran.stderr) == (1, b"")


def test_text_that_the_stream_cannot_encode_is_escaped():
    ran = subprocess.run(
        [sys.executable, "-m", "hrkd_cli", "kein-\N{SNOWMAN}"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        check=False,
    )
    assert ran.returncode == 2
    assert rb"\u2603" in ran.stderr


def test_a_process_that_the_launcher_ended_is_not_the_cause(tmp_path, monkeypatch):
    """Rank 1 failed first; rank 0 was ended before it could say the same."""
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    from hrkd_cli.cli import error_report, launch

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
