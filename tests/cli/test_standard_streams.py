"""Streams that are closed, full or broken, in processes of their own."""

import os
import subprocess
import sys

import pytest

from hrkd_cli.data.dataset_folder import open_dataset
from tiny import write_raw

RUN = "import sys\nfrom hrkd_cli.cli.main import run\nsys.argv[0] = 'hrkd'\nrun()"


def shell(redirections, *words):
    """Run ``hrkd WORDS`` with a shell's redirections."""
    command = f'exec "$0" "$@" {redirections}'
    return subprocess.run(
        ["sh", "-c", command, sys.executable, "-m", "hrkd_cli", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_a_command_does_its_work_without_some_stream(tmp_path, closed):
    raw = write_raw(tmp_path / "raw")
    ran = shell(closed, "prepare", raw, "--out", tmp_path / "out")
    assert ran.returncode == 0
    assert ("internal error" in ran.stderr, "Traceback" in ran.stderr) == (False, False)
    assert open_dataset(tmp_path / "out").domains == ("books", "music")


def test_a_reader_that_leaves_does_not_end_a_run(tmp_path):
    raw = write_raw(tmp_path / "raw")
    read, write = os.pipe()
    os.close(read)
    words = [sys.executable, "-m", "hrkd_cli", "prepare", raw, "--out", tmp_path / "out", "--verbose"]
    ran = subprocess.run(words, stdout=write, stderr=write, check=False)
    os.close(write)
    assert ran.returncode == 1
    assert open_dataset(tmp_path / "out").domains == ("books", "music")


def test_results_that_cannot_be_written_are_an_error(tmp_path):
    raw = write_raw(tmp_path / "raw", domains=[f"d{n}" for n in range(3)])
    for words in (["prepare", raw, "--out", tmp_path / "out"], ["info", "--json"], ["--help"]):
        ran = shell(">/dev/full", *words)
        assert ran.returncode == 1
        assert ran.stderr.splitlines()[-1].startswith("hrkd")
        assert "no space left on the disk" in ran.stderr.splitlines()[-1]


def test_a_folder_that_was_deleted_is_named_as_the_problem(tmp_path):
    raw, folder = write_raw(tmp_path / "raw"), tmp_path / "gone"
    folder.mkdir()
    program = f"import os, sys; sys.path.pop(0); os.chdir({str(folder)!r}); os.rmdir({str(folder)!r})\n{RUN}"
    ran = subprocess.run(
        [sys.executable, "-c", program, "prepare", str(raw)], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (
        1,
        "hrkd prepare: the current folder no longer exists; change to another one\n",
    )
