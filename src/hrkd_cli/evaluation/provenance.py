"""What is evaluated, and on what, where the caller does not say."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hrkd_cli.data.dataset import Dataset
from hrkd_cli.errors import DataError, ModelError, UsageError
from hrkd_cli.events import Note, OnEvent, ignore
from hrkd_cli.json_files import read_json
from hrkd_cli.layout import DATASET_OUT, STUDENT_OUT, TEACHER_OUT, DatasetFiles, ModelFiles, OnnxFiles
from hrkd_cli.predict.model_location import locate_model
from hrkd_cli.predict.model_spec import single_domain


@dataclass(frozen=True, slots=True)
class DataProvenance:
    """The dataset that a model was made from, as its ``hrkd.json`` names it."""

    path: Path
    fingerprint: str | None

    def differs_from(self, dataset: Dataset) -> bool:
        """Whether a prepared dataset is another one; raw data has a fingerprint of its own and cannot be compared."""
        return bool(self.fingerprint and dataset.path and self.fingerprint != dataset.fingerprint)


def default_models() -> list[Path]:
    """Return those of ``hrkd-out``'s teacher, student and exported graphs that are there; ModelError if none is."""
    onnx = STUDENT_OUT / ModelFiles.onnx
    there = [folder for folder in (TEACHER_OUT, STUDENT_OUT) if (folder / ModelFiles.config).is_file()]
    if any((onnx / name).is_file() for name in (OnnxFiles.int8, OnnxFiles.fp32)):
        there.append(onnx)
    if not there:
        raise ModelError(
            f"no model in {TEACHER_OUT} or {STUDENT_OUT}: name models to compare, or run hrkd distill first"
        )
    return there


def read_provenance(model: str | Path) -> DataProvenance | None:
    """Return the dataset that a model was made from; None when it does not say."""
    location = locate_model(model)
    if location is None:
        return None
    entry: Any = read_json(location.root / ModelFiles.run, missing_ok=True).get("data")
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
        return None
    # normpath: "../dataset" of hrkd-out/student is shown to people as hrkd-out/dataset.
    return DataProvenance(Path(os.path.normpath(location.root / entry["path"])), entry.get("fingerprint"))


def restrict_to_single_domain(
    models: Sequence[str | Path], dataset: Dataset, data: str, *, on_event: OnEvent = ignore
) -> Dataset:
    """Return the rows that all models can be scored on: of a baked head, its own domain's.

    Data of a single domain stays as it is: its rows may be new ones, in a file of any name.

    Raises:
        DataError: the data has several domains and a head's is none of them.
        UsageError: heads of several domains.
    """
    heads: dict[str, str | Path] = {}
    for model in models:
        location = locate_model(model)
        domain = single_domain(read_json(location.root / ModelFiles.config, missing_ok=True)) if location else None
        if domain is None or len(dataset.domains) == 1:
            continue
        if domain not in dataset.labels:
            raise DataError(
                f"{data}: no domain {domain!r}, whose head {model} is; it has {', '.join(dataset.domains)}: give rows "
                "of one domain"
            )
        on_event(Note(f"{model} is the head of {domain} alone: only that domain's rows are scored"))
        heads.setdefault(domain, model)
    if len(heads) > 1:
        (first, one), (second, other) = list(heads.items())[:2]
        raise UsageError(
            f"{one} is the head of {first!r} and {other} of {second!r}: no row is for both; evaluate them one at a time"
        )
    return dataset.select_domains(*heads) if heads else dataset


def default_data(models: Sequence[str | Path]) -> Path:
    """Return hrkd-out/dataset, else the data that the first model was made from; DataError if neither is there."""
    if (DATASET_OUT / DatasetFiles.manifest).is_file():
        return DATASET_OUT
    recorded = read_provenance(models[0])
    if recorded is not None and recorded.path.exists():
        return recorded.path
    gone = f", and {recorded.path}, which {models[0]} was made from, is gone" if recorded else ""
    raise DataError(f"no dataset in {DATASET_OUT}{gone}; say which one to use with --data")
