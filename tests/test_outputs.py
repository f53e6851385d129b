"""Output folders that another process writes or creates."""

import pytest

from hrkd_cli.errors import OutputError
from hrkd_cli.outputs import atomic_folder, check_output
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


@pytest.mark.parametrize("name", ["file/out", "file/deep/out"])
def test_an_output_that_cannot_be_made_is_refused_before_any_work(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"out: cannot be written \(Not a directory\); choose another place"):
        check_output(tmp_path / name, kind="model", is_ours=lambda _: True, force=True)


def test_an_output_below_folders_that_do_not_exist_is_accepted(tmp_path):
    check_output(tmp_path / "a/b/out", kind="model", is_ours=lambda _: True, force=False)
