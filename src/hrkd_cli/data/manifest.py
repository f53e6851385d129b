"""``dataset.json``: what a prepared dataset folder says about itself."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hrkd_cli.errors import DataError
from hrkd_cli.layout import DATASET

FORMAT = "hrkd-dataset"
VERSION = 1


@dataclass(frozen=True, slots=True)
class DomainCounts:
    """Rows of a domain in the dataset, by split and by label; the labels are sorted by name."""

    train: int
    dev: int
    test: int
    labels: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {"train": self.train, "dev": self.dev, "test": self.test, "labels": self.labels}


def is_prepared(folder: Path) -> bool:
    """Tell whether a folder is a prepared dataset of ours, of any version."""
    try:
        content = json.loads((folder / DATASET.manifest).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the content of ``dataset.json``.

    Raises:
        DataError: it is missing, not ours, or of a version that this program does not know.
    """
    path = folder / DATASET.manifest
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; hrkd prepare makes a dataset folder")
    if not path.is_file():
        raise DataError(f"{folder}: not a prepared dataset (no {DATASET.manifest}); make one with hrkd prepare")
    if not is_prepared(folder):
        raise DataError(f"{path}: not written by hrkd prepare, or damaged; prepare the data again")
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    if content.get("version") != VERSION:
        raise DataError(
            f"{path}: version {content.get('version')} of the dataset folder, this hrkd reads version {VERSION}; "
            "update hrkd-cli or prepare the data again"
        )
    return content
