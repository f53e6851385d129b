"""Output folders that another process writes or creates."""

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hrkd_cli import outputs
from hrkd_cli.errors import OutputError
from hrkd_cli.layout import ModelFiles
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
        with atomic_folder(tmp_path / "t") as work:
            (work / "result").touch()
            (tmp_path / "t").mkdir()
            (tmp_path / "t" / "thesis.txt").touch()

    with pytest.raises(
        OutputError, match=r"t was made by another program .* not replaced; the finished result is in .*/t.partial$"
    ):
        write()
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["result", "t", "t.partial", "thesis.txt"]
    with pytest.raises(OutputError, match=r"t.partial exists and was not written by hrkd"):  # nor does the next run
        write()


def test_a_result_that_cannot_be_moved_into_place_is_kept(tmp_path, monkeypatch):
    def fail(*_args):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(outputs, "_replace_folder", fail)
    with (
        pytest.raises(
            OutputError, match=r"t: cannot be replaced \(Invalid .*\); the finished result is in .*t.partial$"
        ),
        atomic_folder(tmp_path / "t") as work,
    ):
        (work / "result").touch()
    assert [p.name for p in (tmp_path / "t.partial").iterdir()] == ["result"]


def test_all_files_get_the_permissions_of_new_files(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_folder(tmp_path / "t") as work:
            (work / "best").mkdir()
            save_file({"a": torch.zeros(1)}, work / "best" / "model.safetensors")
            (work / "config.json").touch()
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes == {"t": 0o750, "best": 0o750, "model.safetensors": 0o640, "config.json": 0o640}


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",
        "best/books/a.json",
        "sub/config.json",
        "model.safetensors/x",
        ".git/HEAD",
        "customers.model",
        "model_backup.safetensors",
        "tokenizer_old.json",
        "vocab.mine",
    ],
)
def test_force_does_not_delete_a_file_of_the_user(tmp_path, name):
    def check():
        check_output(tmp_path, kind="model", is_ours=lambda _: True, written=ModelFiles.written, force=True)

    for own in ("config.json", "best/books/config.json", "onnx/model.onnx", "report.html"):
        (tmp_path / own).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / own).touch()
    check()
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(OutputError, match=f"/{name} was not written by hrkd, and --force would delete it; move it"):
        check()


@pytest.mark.parametrize("name", ["file/out", "file/deep/out"])
def test_an_output_that_cannot_be_made_is_refused_before_any_work(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"out: cannot be written \(Not a directory\); choose another place"):
        check_output(tmp_path / name, kind="model", is_ours=lambda _: True, written=(), force=True)


def test_the_root_folder_is_refused_as_an_output():
    with pytest.raises(OutputError, match=r"^/(: cannot be written| is not a model folder written by hrkd)"):
        check_output(Path("/"), kind="model", is_ours=lambda _: False, written=(), force=True)


def test_an_output_below_folders_that_do_not_exist_is_accepted(tmp_path):
    check_output(tmp_path / "a/b/out", kind="model", is_ours=lambda _: True, written=(), force=False)
