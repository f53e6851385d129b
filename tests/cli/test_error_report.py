"""Errors of a command: one line on stderr and an exit code."""

import errno

import pytest

from hrkd_cli import errors


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
        (FileNotFoundError(errno.ENOENT, "No such file"), 1, "teach: the current folder no longer exists; change to a"),
        (ValueError("no https://me:s3cret@hub.example"), 1, "hrkd teach: internal error: ValueError: no https://***@h"),
        (MemoryError(), 1, "hrkd teach: out of memory; free some memory and continue from a checkpoint with --resume"),
        (EOFError("torn file"), 1, "internal error: EOFError: torn file"),
        (ValueError("odd\nthing"), 1, "hrkd teach: internal error: ValueError: odd thing; set HRKD_DEBUG=1"),
    ],
)
def test_errors_have_an_exit_code_and_one_line(hrkd, engines, error, code, line):
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
