"""What an export returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hrkd_cli.evaluation.latency import Latency


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """One file in ``onnx/``.

    Attributes:
        path: where it lies.
        precision: ``"fp32"``, ``"fp16"``, ``"int8"``, ``"int8-static"`` or ``"int4"``.
        bytes: its size.
        recipe: how it was made, in words; empty for fp32.
        latency: by number of tokens and threads; empty where it was not timed.
    """

    path: str
    precision: str
    bytes: int
    recipe: str = ""
    latency: tuple[Latency, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the entry as plain values; what is empty is left out."""
        entry: dict[str, Any] = {"path": self.path, "precision": self.precision, "bytes": self.bytes}
        if self.recipe:
            entry["recipe"] = self.recipe
        if self.latency:
            entry["latency"] = [figure.to_json() for figure in self.latency]
        return entry


@dataclass(frozen=True, slots=True)
class Gate:
    """What a smaller precision cost on the dev split.

    Attributes:
        max_drop: points of average accuracy that may be lost.
        drop: points that were lost, the student's minus the file's one text at a time; of several files the most.
        passed: whether that was not too many.
    """

    max_drop: float
    drop: float
    passed: bool

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain values."""
        return {"max_drop": self.max_drop, "drop": self.drop, "passed": self.passed}


@dataclass(frozen=True, slots=True)
class Try:
    """One recipe that was tried.

    Attributes:
        precision: of the file.
        recipe: in words.
        bytes: of the file.
        gate: what it cost.
        kept: whether this is the file that was written.
        accuracy: dev accuracy by domain.
    """

    precision: str
    recipe: str
    bytes: int
    gate: Gate
    kept: bool = False
    accuracy: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain values."""
        return {
            "precision": self.precision,
            "recipe": self.recipe,
            "bytes": self.bytes,
            "drop": self.gate.drop,
            "passed": self.gate.passed,
            "kept": self.kept,
        }


@dataclass(frozen=True, slots=True)
class ExportResult:
    """Files written, and what is in them.

    Attributes:
        files: the graphs asked for that now lie in ``onnx/``, one that was kept included.
        quantized_ops: quantised operators by type in the smallest file; empty where nothing was quantised.
        bytes_by_part: bytes of the smallest file by part of the model.
        gate: None when only fp32 was asked for.
        tries: the recipes that were tried, in order.
        target: the CPU that int8 files are for; empty without one.
        machine: what the latencies were measured on; empty without them.
    """

    files: tuple[ExportedFile, ...]
    quantized_ops: dict[str, int]
    bytes_by_part: dict[str, int]
    gate: Gate | None
    tries: tuple[Try, ...] = ()
    target: str = ""
    machine: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain values; what is empty and not part of every export is left out."""
        result: dict[str, Any] = {
            "files": [file.to_json() for file in self.files],
            "quantized_ops": dict(self.quantized_ops),
            "bytes_by_part": dict(self.bytes_by_part),
            "gate": self.gate.to_json() if self.gate else None,
        }
        if self.tries:
            result["tries"] = [entry.to_json() for entry in self.tries]
        if self.target:
            result["target"] = self.target
        if self.machine:
            result["machine"] = self.machine
        return result
