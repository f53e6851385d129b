"""Shared fixtures. Tests run offline, without the user's settings, each in a temporary folder."""

import os

# Tiny models are fastest on one thread. This must be set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

pytest_plugins = ["trained_teacher"]

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    """Run every test in a temporary folder, where default outputs go to ./hrkd-out."""
    monkeypatch.chdir(tmp_path)
    for name in [n for n in os.environ if n.startswith("HRKD_") and n != "HRKD_GOLDEN"]:
        monkeypatch.delenv(name)
