"""Shared fixtures. Tests touch no network and leave the user's folders alone."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    """Run every test in a folder of its own: default outputs go to ./hrkd-out."""
    monkeypatch.chdir(tmp_path)
    for name in [n for n in os.environ if n.startswith("HRKD_") and n != "HRKD_GOLDEN"]:
        monkeypatch.delenv(name)
