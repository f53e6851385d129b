import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import latency


@pytest.mark.parametrize("write", [latency.write_files, latency.write_rewrites])
def test_graphs_to_time_are_written(write, tmp_path):
    student = latency.write_random(tmp_path / "student", layers=1, width=24, inner=32)

    files = write(student, tmp_path)

    assert all(path.stat().st_size for path in files.values())
