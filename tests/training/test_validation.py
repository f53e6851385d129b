"""Data that cannot be used for training."""

import pytest

from hrkd_cli.data.dataset import Dataset
from hrkd_cli.errors import DataError
from short_runs import run_teach
from tiny import make_dataset


def test_a_domain_without_dev_rows_or_with_one_label_is_refused(tmp_path, encoder):
    whole = make_dataset()
    no_dev = {"books": whole.rows["books"], "music": {"train": whole.rows["music"]["train"]}}
    data = Dataset(whole.labels, False, "x", None, no_dev)
    with pytest.raises(DataError, match="domain 'music' has no dev rows"):
        run_teach(encoder, data, tmp_path / "t")
    one_label = Dataset({**whole.labels, "music": ("good",)}, False, "x", None, whole.rows)
    with pytest.raises(DataError, match="domain 'music' has one label only"):
        run_teach(encoder, one_label, tmp_path / "t")
