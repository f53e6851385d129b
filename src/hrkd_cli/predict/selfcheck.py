"""Self-check of an exported folder: a device repeats stored predictions and compares.

``self_check.json`` is stored next to the ONNX files::

    {"format": 1,
     "cases": [{"text": "...", "domain": "books"}, ...],
     "files": {"model_quantized.onnx": {"tolerance": 0.05, "labels": ["positive", null, ...], "logits": [[...], ...]}}}

``labels`` and ``logits`` have one entry per case: the label in the case's domain, and all outputs of the file, run one
text at a time. A label is null if the tolerance alone could swap the two best labels; then only logits are compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hrkd_cli.errors import ModelError
from hrkd_cli.json_files import read_json
from hrkd_cli.layout import ModelFiles, OnnxFiles
from hrkd_cli.predict.backend import Backend, open_backend
from hrkd_cli.predict.heads import FloatArray, predict_label_indices

SELF_CHECK_FORMAT = 1


@dataclass(frozen=True, slots=True)
class SelfCheckResult:
    """Comparison of an ONNX file with its stored predictions: largest difference of a logit, and wrong labels."""

    file: str
    cases: int
    difference: float
    tolerance: float
    wrong_labels: int

    @property
    def passed(self) -> bool:
        """Whether all labels agree and all logits are within the tolerance."""
        return self.wrong_labels == 0 and self.difference <= self.tolerance

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain values."""
        return {**asdict(self), "passed": self.passed}

    def __str__(self) -> str:
        return (
            f"{self.file}: {self.cases} cases, {self.wrong_labels} other labels, logits within {self.difference:.2g} "
            f"({self.tolerance:.2g} allowed)"
        )


def self_check(folder: str | Path, *, threads: int | None = None) -> list[SelfCheckResult]:
    """Repeat the stored predictions of every ONNX file in a model folder or an ``onnx`` folder.

    Raises:
        ModelError: nothing is stored, a file is missing or cannot run, or a prediction differs from the stored one.
    """
    path = Path(folder) / OnnxFiles.self_check
    if not path.is_file():
        path = Path(folder) / ModelFiles.onnx / OnnxFiles.self_check
    if not path.is_file():
        raise ModelError(
            f"{folder}: no {OnnxFiles.self_check} in it or in its {ModelFiles.onnx} folder; hrkd export writes one"
        )
    stored = read_stored_cases(path)
    results = [
        _check_file(path.parent / name, stored["cases"], entry, threads) for name, entry in stored["files"].items()
    ]
    if failed := [result for result in results if not result.passed]:
        raise ModelError(
            f"{folder}: self-check FAILED: {'; '.join(map(str, failed))}; this machine computes other results "
            "than the exporting one, or the files were changed: copy them again, or export for this CPU"
        )
    return results


def read_stored_cases(path: Path) -> dict[str, Any]:
    """Read ``self_check.json``; ModelError if it is damaged."""
    stored = read_json(path)
    try:
        valid = int(stored["format"]) == SELF_CHECK_FORMAT and stored["files"]
        for entry in stored["files"].values():
            lengths = {len(stored["cases"]), len(entry["labels"]), len(entry["logits"])}
            valid = valid and len(lengths) == 1 and 0 not in lengths and float(entry["tolerance"]) >= 0
        valid = valid and all(isinstance(case["text"], str) and case["domain"] for case in stored["cases"])
    except (KeyError, TypeError, ValueError, AttributeError):
        valid = False
    if not valid:
        raise ModelError(f"{path}: damaged, or of another version of hrkd; export again")
    return stored


def _check_file(
    onnx_file: Path, cases: list[dict[str, Any]], entry: Mapping[str, Any], threads: int | None
) -> SelfCheckResult:
    if not onnx_file.is_file():
        raise ModelError(f"{onnx_file}: missing; copy the whole folder, or export again")
    backend = open_backend(onnx_file, threads=threads)
    logits = case_logits(backend, cases)
    expected = np.array(entry["logits"], dtype=np.float32)
    if logits.shape != expected.shape:
        raise ModelError(
            f"{onnx_file}: gives {logits.shape[1]} outputs but {expected.shape[-1]} are stored; export it again"
        )
    labels = case_labels(backend, cases, logits)
    wrong = sum(stored is not None and stored != label for stored, label in zip(entry["labels"], labels, strict=True))
    difference = float(np.abs(logits - expected).max())
    return SelfCheckResult(onnx_file.name, len(cases), difference, float(entry["tolerance"]), wrong)


def case_logits(backend: Backend, cases: list[dict[str, Any]]) -> FloatArray:
    """Return the logits of all outputs, (cases, outputs), run one text at a time as on a device."""
    pairs = [str(case["text_pair"]) for case in cases] if "text_pair" in cases[0] else None
    return backend.logits([case["text"] for case in cases], pairs, batch_size=1)


def case_labels(backend: Backend, cases: list[dict[str, Any]], logits: FloatArray) -> list[str]:
    """Return each case's label in its domain; ModelError if the model does not have the domain."""
    heads = backend.spec.all_heads
    if unknown := sorted({case["domain"] for case in cases} - set(heads.labels)):
        raise ModelError(
            f"{backend.name_or_path}: the stored cases name a domain {unknown[0]!r} that config.json does not"
        )
    return [
        heads.labels[case["domain"]][int(predict_label_indices(row[None], heads, case["domain"])[0])]
        for case, row in zip(cases, logits, strict=True)
    ]
