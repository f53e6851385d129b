"""Shared fixtures. Tests touch no network and leave the user's folders alone."""

import os

# Tiny models are fastest on one thread, and several would fight over a small machine's cores. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

pytest_plugins = ["taught"]

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    """Run every test in a folder of its own: default outputs go to ./hrkd-out."""
    monkeypatch.chdir(tmp_path)
    for name in [n for n in os.environ if n.startswith("HRKD_") and n != "HRKD_GOLDEN"]:
        monkeypatch.delenv(name)
