"""What is evaluated, and on what, where the caller does not say."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hrkd_cli.errors import DataError, ModelError
from hrkd_cli.layout import DATASET, DATASET_OUT, MODEL, ONNX, STUDENT_OUT, TEACHER_OUT
from hrkd_cli.runtime.folder import locate, read_json


@dataclass(frozen=True, slots=True)
class RecordedData:
    """The dataset that a model was made from, as its ``hrkd.json`` names it."""

    path: Path
    fingerprint: str | None


def default_models() -> list[Path]:
    """Return those of ``hrkd-out``'s teacher, student and exported graphs that are there.

    Raises:
        ModelError: none is.
    """
    onnx = STUDENT_OUT / MODEL.onnx
    there = [folder for folder in (TEACHER_OUT, STUDENT_OUT) if (folder / MODEL.config).is_file()]
    if any((onnx / name).is_file() for name in (ONNX.int8, ONNX.fp32)):
        there.append(onnx)
    if not there:
        raise ModelError(
            f"no model in {TEACHER_OUT} or {STUDENT_OUT}: name models to compare, or run hrkd distill first"
        )
    return there


def recorded_data(model: str | Path) -> RecordedData | None:
    """Return the dataset that a model folder, ``onnx`` folder or graph was made from; None when it does not say."""
    location = locate(model)
    if location is None:
        return None
    entry: Any = read_json(location.root / MODEL.run, missing_ok=True).get("data")
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
        return None
    # normpath: "../dataset" of hrkd-out/student is shown to people as hrkd-out/dataset.
    path = Path(os.path.normpath(location.root / entry["path"]))
    return RecordedData(path, entry.get("fingerprint"))


def find_data(models: Sequence[str | Path]) -> Path:
    """Return the prepared dataset of the working folder, else the one that the first model was made from.

    Raises:
        DataError: neither is there.
    """
    if (DATASET_OUT / DATASET.manifest).is_file():
        return DATASET_OUT
    recorded = recorded_data(models[0])
    if recorded is not None and recorded.path.exists():
        return recorded.path
    gone = f", and {recorded.path}, which {models[0]} was made from, is gone" if recorded else ""
    raise DataError(f"no dataset in {DATASET_OUT}{gone}; say which one to use with --data")
