"""Self-check of an exported folder: a device compares checksums, repeats stored predictions and compares them.

``self_check.json`` is stored next to the ONNX files::

    {"format": 1,
     "cases": [{"text": "...", "domain": "books"}, ...],
     "files": {"model_quantized.onnx": {"sha256": "...", "tolerance": 0.05, "labels": ["positive", null, ...],
                                        "logits": [[...], ...]}},
     "sha256": {"config.json": "...", "tokenizer.json": "...", "tokenizer_config.json": "..."}}

``labels`` and ``logits`` have one entry per case: the label in the case's domain, and all outputs of the file, run one
text at a time. A label is null if rounding alone could swap the two best labels; then only logits are compared.
"""

from __future__ import annotations

import hashlib
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
from hrkd_cli.predict.model_location import find_root

SELF_CHECK_FORMAT = 1
ROOT_FILES = (ModelFiles.config, ModelFiles.tokenizer, ModelFiles.tokenizer_config)
"""Files with a checksum besides the ONNX files: all that prediction reads."""
NO_CLEAR_LABEL = "self-check cannot pass"
"""Start of the message about files whose logits agree, but of which no label is clear enough to compare."""


@dataclass(frozen=True, slots=True)
class SelfCheckResult:
    """Comparison of an ONNX file with its stored predictions.

    Attributes:
        compared_labels: number of cases whose label is clear enough to compare.
        wrong_labels: how many of these labels differ.
        difference: largest difference of a logit, and the ``tolerance`` for it.
    """

    file: str
    cases: int
    difference: float
    tolerance: float
    wrong_labels: int
    compared_labels: int

    @property
    def passed(self) -> bool:
        """Whether there are labels to compare, all of them agree, and all logits are within the tolerance."""
        return self.agrees and self.compared_labels > 0

    @property
    def agrees(self) -> bool:
        """Whether nothing differs."""
        return self.wrong_labels == 0 and self.difference <= self.tolerance

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain values."""
        return {**asdict(self), "passed": self.passed}

    def __str__(self) -> str:
        return (
            f"{self.file}: {self.cases} cases, {self.wrong_labels} of {self.compared_labels} labels differ, logits "
            f"within {self.difference:.2g} ({self.tolerance:.2g} allowed)"
        )


def self_check(folder: str | Path, *, threads: int | None = None) -> list[SelfCheckResult]:
    """Compare checksums and repeat the stored predictions of every ONNX file in a model folder or an ``onnx`` folder.

    Raises:
        ModelError: nothing is stored, a file is missing, was changed, was not exported with the others or cannot run, a
            prediction differs from the stored one, or a file has no label that is clear enough to compare.
    """
    if Path(folder).is_file():
        raise ModelError(f"{folder}: is a file; name its folder, {Path(folder).parent}")
    path = Path(folder) / OnnxFiles.self_check
    if not path.is_file():
        path = Path(folder) / ModelFiles.onnx / OnnxFiles.self_check
    if not Path(folder).is_dir():
        raise ModelError(f"{folder}: no such folder; name a student's folder or its {ModelFiles.onnx} folder")
    if not path.is_file():
        raise ModelError(
            f"{folder}: no {OnnxFiles.self_check} in it or in its {ModelFiles.onnx} folder; hrkd export writes one"
        )
    stored = read_stored_cases(path)
    _check_checksums(path.parent, stored)
    results = [
        _check_file(path.parent / name, stored["cases"], entry, threads) for name, entry in stored["files"].items()
    ]
    if failed := [result for result in results if not result.agrees]:
        raise ModelError(
            f"{folder}: self-check FAILED: {'; '.join(map(str, failed))}; this machine computes other results "
            "than the exporting one, or the files were changed: copy them again, or export for this CPU"
        )
    if unclear := [result for result in results if not result.passed]:
        raise ModelError(
            f"{folder}: {NO_CLEAR_LABEL}: {'; '.join(map(str, unclear))}; the logits agree, but the model separates "
            "its labels by less than rounding may change: train it longer, and export it again"
        )
    return results


def sha256_of(file: Path) -> str:
    """Return a file's checksum."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_checksums(folder: Path, stored: Mapping[str, Any]) -> None:
    """Raise ModelError if a file is missing or is not the exported one, or if there are other ONNX files."""
    checksums = {folder / name: entry["sha256"] for name, entry in stored["files"].items()}
    for file in checksums:
        if not file.is_file():
            raise ModelError(f"{file}: missing; copy the whole folder, or export again")
    # Without hidden files, such as those that macOS copies.
    if others := sorted(str(file) for file in folder.glob("[!.]*.onnx") if file not in checksums):
        raise ModelError(
            f"self-check FAILED: not exported with the other files: {', '.join(others)}; delete it, or copy the whole "
            "folder again, into an empty one"
        )
    root = find_root(folder)
    checksums |= {root / name: value for name, value in stored["sha256"].items()}
    changed = [str(file) for file, value in checksums.items() if not file.is_file() or sha256_of(file) != value]
    if changed:
        raise ModelError(
            f"self-check FAILED: not the file that was exported (sha256): {', '.join(changed)}; copy the whole folder "
            "again, or export again"
        )


def read_stored_cases(path: Path) -> dict[str, Any]:
    """Read ``self_check.json``; ModelError if it is damaged."""
    stored = read_json(path)
    lengths = {len(stored["cases"])}
    lengths |= {len(entry[name]) for entry in stored["files"].values() for name in ("labels", "logits")}
    widths = {len({len(row) for row in entry["logits"]}) for entry in stored["files"].values()}
    valid = stored["format"] == SELF_CHECK_FORMAT and len(lengths) == 1 and 0 not in lengths and widths == {1}
    if not valid:
        raise ModelError(f"{path}: damaged, or another version of hrkd wrote it; export again")
    return stored


def _check_file(
    onnx_file: Path, cases: list[dict[str, Any]], entry: Mapping[str, Any], threads: int | None
) -> SelfCheckResult:
    backend = open_backend(onnx_file, threads=threads)
    logits = case_logits(backend, cases)
    expected = np.array(entry["logits"], dtype=np.float32)
    if logits.shape != expected.shape:
        raise ModelError(
            f"{onnx_file}: gives {logits.shape[1]} outputs but {expected.shape[-1]} are stored; export it again"
        )
    labels = case_labels(backend, cases, logits)
    clear = [(before, now) for before, now in zip(entry["labels"], labels, strict=True) if before is not None]
    return SelfCheckResult(
        onnx_file.name,
        len(cases),
        difference=float(np.abs(logits - expected).max()),
        tolerance=float(entry["tolerance"]),
        wrong_labels=sum(before != now for before, now in clear),
        compared_labels=len(clear),
    )


def case_logits(backend: Backend, cases: list[dict[str, Any]]) -> FloatArray:
    """Return the logits of all outputs, (cases, outputs), run one text at a time as on a device."""
    pairs = [str(case["text_pair"]) for case in cases] if "text_pair" in cases[0] else None
    return backend.logits([case["text"] for case in cases], pairs, batch_size=1)


def case_labels(backend: Backend, cases: list[dict[str, Any]], logits: FloatArray) -> list[str]:
    """Return each case's label in its domain; ModelError if the model does not have the domain."""
    heads = backend.spec.all_heads
    domains = [case["domain"] for case in cases]
    if unknown := sorted(set(domains) - set(heads.labels)):
        raise ModelError(
            f"{backend.name_or_path}: the stored cases name a domain {unknown[0]!r} that config.json does not"
        )
    return [
        heads.labels[domain][int(predict_label_indices(row[None], heads, domain)[0])]
        for domain, row in zip(domains, logits, strict=True)
    ]
