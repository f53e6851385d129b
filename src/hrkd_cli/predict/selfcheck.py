"""Stored predictions that an exported folder repeats, so that a device can tell whether it computes the same.

``self_check.json`` lies beside the graphs::

    {"format": 1,
     "cases": [{"text": "...", "domain": "books"}, ...],
     "files": {"model_quantized.onnx": {"tolerance": 0.05, "labels": ["positive", null, ...], "logits": [[...], ...]}}}

``labels`` and ``logits`` have one entry per case: the domain's label, and all outputs of the graph, one text at a time.
A label is null where the tolerance alone could swap the two best ones; then only the logits are compared.
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
    """How far a graph is from its stored predictions: largest absolute difference of a logit, and other labels."""

    file: str
    cases: int
    difference: float
    tolerance: float
    wrong_labels: int

    @property
    def passed(self) -> bool:
        """Whether all labels agree and all logits are close."""
        return self.wrong_labels == 0 and self.difference <= self.tolerance

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain values."""
        return {**asdict(self), "passed": self.passed}

    def __str__(self) -> str:
        return (
            f"{self.file}: {self.cases} cases, {self.wrong_labels} other labels, logits within {self.difference:.2g} "
            f"({self.tolerance:.2g} allowed)"
        )


def self_check(folder: str | Path, *, threads: int | None = None) -> list[SelfCheckResult]:
    """Repeat the stored predictions of every graph of a model folder or its ``onnx`` folder.

    Raises:
        ModelError: nothing was stored, a graph is missing or cannot be run, or some prediction is not the stored one.
    """
    path = Path(folder) / OnnxFiles.self_check
    if not path.is_file():
        path = Path(folder) / ModelFiles.onnx / OnnxFiles.self_check
    if not path.is_file():
        raise ModelError(
            f"{folder}: no {OnnxFiles.self_check} in it or in its {ModelFiles.onnx} folder; hrkd export writes one"
        )
    stored = read_stored_cases(path)
    checked = [_check(path.parent, name, stored["cases"], entry, threads) for name, entry in stored["files"].items()]
    if failed := [entry for entry in checked if not entry.passed]:
        raise ModelError(
            f"{folder}: self-check FAILED: {'; '.join(map(str, failed))}; this machine does not compute what the "
            "exporting one did, or the files were changed: copy them again, or export for this CPU"
        )
    return checked


def read_stored_cases(path: Path) -> dict[str, Any]:
    """Read stored predictions; ModelError if they are damaged."""
    stored = read_json(path)
    try:
        whole = int(stored["format"]) == SELF_CHECK_FORMAT and stored["files"]
        for entry in stored["files"].values():
            sizes = {len(stored["cases"]), len(entry["labels"]), len(entry["logits"])}
            whole = whole and len(sizes) == 1 and 0 not in sizes and float(entry["tolerance"]) >= 0
        whole = whole and all(isinstance(case["text"], str) and case["domain"] for case in stored["cases"])
    except (KeyError, TypeError, ValueError, AttributeError):
        whole = False
    if not whole:
        raise ModelError(f"{path}: damaged, or of another version of hrkd; export again")
    return stored


def _check(
    folder: Path, name: str, cases: list[dict[str, Any]], entry: Mapping[str, Any], threads: int | None
) -> SelfCheckResult:
    graph = folder / name
    if not graph.is_file():
        raise ModelError(f"{graph}: missing; copy the whole folder, or export again")
    backend = open_backend(graph, threads=threads)
    logits = case_logits(backend, cases)
    expected = np.array(entry["logits"], dtype=np.float32)
    if logits.shape != expected.shape:
        raise ModelError(
            f"{graph}: gives {logits.shape[1]} outputs but {expected.shape[-1]} are stored; export it again"
        )
    labels = case_labels(backend, cases, logits)
    wrong = sum(stored is not None and stored != label for stored, label in zip(entry["labels"], labels, strict=True))
    return SelfCheckResult(name, len(cases), float(np.abs(logits - expected).max()), float(entry["tolerance"]), wrong)


def case_logits(backend: Backend, cases: list[dict[str, Any]]) -> FloatArray:
    """Return the logits of all outputs, [cases, outputs], one text at a time, as devices run it."""
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
