"""Output folders that another process writes or creates."""

import pytest

from hrkd_cli.errors import OutputError
from hrkd_cli.outputs import atomic_folder
from short_runs import run_teach


def test_a_folder_that_another_process_is_writing_is_not_touched(tmp_path, encoder, dataset):
    with atomic_folder(tmp_path / "t") as work:
        (work / "precious").touch()
        with pytest.raises(OutputError, match="is being written by another hrkd"):
            run_teach(encoder, dataset, tmp_path / "t")
        assert (work / "precious").exists()


def test_a_folder_that_appears_during_a_run_is_not_replaced(tmp_path):
    def write():
        with atomic_folder(tmp_path / "t"):
            (tmp_path / "t").mkdir()
            (tmp_path / "t" / "thesis.txt").touch()

    with pytest.raises(OutputError, match="appeared while it was being written"):
        write()
    assert [p.name for p in tmp_path.rglob("*")] == ["t", "thesis.txt"]
