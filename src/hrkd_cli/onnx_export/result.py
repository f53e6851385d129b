"""What an export returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hrkd_cli.evaluation.latency import Latency

if TYPE_CHECKING:
    from hrkd_cli.onnx_export.trimming import TrimReport


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """One file in ``onnx/``: the recipe in words (empty for fp32), latency by number of tokens and threads."""

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
    """What a smaller model cost on the dev split.

    Attributes:
        max_drop: points of average accuracy that may be lost.
        drop: points that were lost, the student's minus the file's one text at a time; of several files the most.
        passed: whether that was not too many.
        accuracy: by domain, 0..1; of several files empty.
    """

    max_drop: float
    drop: float
    passed: bool
    accuracy: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain values."""
        return {"max_drop": self.max_drop, "drop": self.drop, "passed": self.passed}


@dataclass(frozen=True, slots=True)
class Try:
    """One recipe that was tried.

    Attributes:
        precision: of the file.
        recipe: in words.
        bytes: size of the file.
        gate: what it cost.
        kept: whether this is the file that was written.
        operators: quantized operators by type.
        padded_drop: points lost in padded batches; None where it was not kept.
    """

    precision: str
    recipe: str
    bytes: int
    gate: Gate
    kept: bool = False
    operators: Mapping[str, int] = field(default_factory=dict)
    padded_drop: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain values."""
        cost = {"drop": self.gate.drop, "passed": self.gate.passed, "kept": self.kept}
        return {"precision": self.precision, "recipe": self.recipe, "bytes": self.bytes, **cost}


def best_try(tries: Sequence[Try]) -> Try:
    """Return the try that was kept, else the one that lost least."""
    return min(tries, key=lambda entry: (not entry.kept, entry.gate.drop))


@dataclass(frozen=True, slots=True)
class ExportResult:
    """Files written, and what is in them.

    Attributes:
        files: the graphs asked for that now lie in ``onnx/``, one that was kept included.
        quantized_ops: quantized operators by type in the smallest file; empty where nothing was quantized.
        bytes_by_part: bytes of the smallest file by part of the model.
        gate: None when only fp32 was asked for.
        tries: the recipes that were tried, in order.
        target: the CPU that int8 files are for; empty without one.
        machine: what the latencies were measured on; empty without them.
        out: the new folder of a baked head or a trimmed vocabulary; empty in the student's own.
        domain: the baked domain; None for all heads.
        vocabulary: what trimming kept and dropped; None without it.
        trim_drop: points of average dev accuracy that trimming cost.
    """

    files: tuple[ExportedFile, ...]
    quantized_ops: dict[str, int]
    bytes_by_part: dict[str, int]
    gate: Gate | None
    tries: tuple[Try, ...] = ()
    target: str = ""
    machine: str = ""
    out: str = ""
    domain: str | None = None
    vocabulary: TrimReport | None = None
    trim_drop: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain values; what is empty and not part of every export is left out."""
        result: dict[str, Any] = {
            "files": [file.to_json() for file in self.files],
            "quantized_ops": self.quantized_ops,
            "bytes_by_part": self.bytes_by_part,
            "gate": self.gate.to_json() if self.gate else None,
        }
        if self.tries:
            result["tries"] = [entry.to_json() for entry in self.tries]
        for name in ("target", "machine"):
            if value := getattr(self, name):
                result[name] = value
        if self.out:
            result |= {"out": self.out, "domain": self.domain}
        if self.vocabulary is not None:
            result["vocabulary"] = {**self.vocabulary.to_json(), "accuracy_drop": self.trim_drop}
        return result
