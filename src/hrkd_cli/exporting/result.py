"""What an export returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """One file in ``onnx/``.

    Attributes:
        path: where it lies.
        precision: ``"fp32"`` or ``"int8"``.
        bytes: its size.
    """

    path: str
    precision: str
    bytes: int

    def to_json(self) -> dict[str, Any]:
        """Return the entry as plain values."""
        return {"path": self.path, "precision": self.precision, "bytes": self.bytes}


@dataclass(frozen=True, slots=True)
class Gate:
    """What quantising cost on the dev split.

    Attributes:
        max_drop: points of average accuracy that may be lost.
        drop: points that were lost, fp32 minus the worse of int8 at batch 1 and padded.
        passed: whether that was not too many.
    """

    max_drop: float
    drop: float
    passed: bool

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain values."""
        return {"max_drop": self.max_drop, "drop": self.drop, "passed": self.passed}


@dataclass(frozen=True, slots=True)
class ExportResult:
    """Files written, and what is in them.

    Attributes:
        files: the graphs asked for that now lie in ``onnx/``, one that was kept included.
        quantized_ops: quantised operators by type; empty without int8.
        bytes_by_part: bytes of the smallest file by part of the model.
        gate: None when nothing was quantised.
    """

    files: tuple[ExportedFile, ...]
    quantized_ops: dict[str, int]
    bytes_by_part: dict[str, int]
    gate: Gate | None

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain values."""
        return {
            "files": [file.to_json() for file in self.files],
            "quantized_ops": dict(self.quantized_ops),
            "bytes_by_part": dict(self.bytes_by_part),
            "gate": self.gate.to_json() if self.gate else None,
        }
