"""The output folder of a stage."""

import pytest

from hrkd_cli.errors import OutputError
from hrkd_cli.teaching.teach import teach
from short_runs import run_teach


def test_an_existing_output_is_refused_before_inputs_are_read(tmp_path):
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "hrkd.json").write_text('{"stage": "teach"}')
    with pytest.raises(OutputError, match=r"exists already.*--force"):
        teach("no-such-model", data="no-such-data", out=tmp_path / "t")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="not a teacher folder written by hrkd"):
        teach("no-such-model", data="no-such-data", out=tmp_path / "mine", force=True)
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_a_full_disk_is_a_one_line_error_and_leaves_no_files(tmp_path, encoder, dataset, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hrkd_cli.training.best_weights.save_file", full)
    with pytest.raises(OutputError, match=r"t: the disk is full"):
        run_teach(encoder, dataset, tmp_path / "t", epochs=1)
    assert list(tmp_path.iterdir()) == []
