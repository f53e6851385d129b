"""Writing and reading of checkpoint folders."""

import json

import pytest
import torch

from hrkd_cli.errors import TrainingError
from hrkd_cli.training.checkpoint import FORMAT, load_latest_checkpoint, write_checkpoint


def test_checkpoints_that_are_all_damaged_are_an_error(tmp_path):
    write_checkpoint(tmp_path, 3, {"a": torch.zeros(2)}, {})
    (tmp_path / "checkpoint-3" / "checkpoint.json").write_text("{")
    with pytest.raises(TrainingError, match=r"all checkpoints are damaged; start over with --force"):
        load_latest_checkpoint(tmp_path)


def test_checkpoints_of_another_format_are_not_called_damaged(tmp_path):
    write_checkpoint(tmp_path, 3, {"a": torch.zeros(2)}, {})
    file = tmp_path / "checkpoint-3" / "checkpoint.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": FORMAT - 1}))
    message = "another version of hrkd made its checkpoints; resume with that version, or start over with --force"
    with pytest.raises(TrainingError, match=message):
        load_latest_checkpoint(tmp_path)
    write_checkpoint(tmp_path, 2, {"a": torch.ones(2)}, {})  # an older one that can be read
    assert load_latest_checkpoint(tmp_path)[0]["step"] == 2


def test_a_checkpoint_that_cannot_be_written_leaves_the_previous_one(tmp_path, monkeypatch):
    write_checkpoint(tmp_path, 3, {"a": torch.zeros(2)}, {})

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hrkd_cli.training.checkpoint.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(tmp_path, 4, {"a": torch.ones(2)}, {})
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-3"]
    assert load_latest_checkpoint(tmp_path)[1]["a"].tolist() == [0, 0]
