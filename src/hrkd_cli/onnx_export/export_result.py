"""The result of ``export``: files, quantization trials, and the result of the accuracy gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from hrkd_cli.evaluation.latency import Latency
from hrkd_cli.evaluation.metrics import DomainScores

if TYPE_CHECKING:
    from hrkd_cli.onnx_export.trimming import TrimReport


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """One file in ``onnx/``: format, description of its recipe (empty for fp32), latency by token count and threads."""

    path: str
    precision: str
    bytes: int
    recipe: str = ""
    latency: tuple[Latency, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values, without empty ones."""
        fields = asdict(self) | {"latency": [latency.to_json() for latency in self.latency]}
        return {name: value for name, value in fields.items() if value}


@dataclass(frozen=True, slots=True)
class Gate:
    """Result of the accuracy gate on the dev split.

    Attributes:
        max_drop: points of average accuracy that a file may lose.
        drop: points lost relative to the student, one text at a time; the largest of all files.
        passed: whether ``drop`` is at most ``max_drop``.
    """

    max_drop: float
    drop: float
    passed: bool


@dataclass(frozen=True, slots=True)
class Trial:
    """One recipe that was tried.

    Attributes:
        recipe: description of the recipe.
        drop: points of average dev accuracy lost.
        passed: whether the gate allows that.
        accuracy: dev accuracy by domain, 0..1.
        kept: whether this file was written.
        padded_drop: points lost in padded batches; None unless kept.
        calibration: the file's entry of ``hrkd.calibration`` in ``config.json``; None unless kept.
    """

    precision: str
    recipe: str
    bytes: int
    drop: float
    passed: bool
    accuracy: Mapping[str, float]
    kept: bool = False
    padded_drop: float | None = None
    calibration: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields that JSON output lists."""
        names = ("precision", "recipe", "bytes", "drop", "passed", "kept")
        return {name: getattr(self, name) for name in names}


def best_trial(trials: Sequence[Trial]) -> Trial:
    """Return the trial whose file was kept, else the one with the smallest drop."""
    return min(trials, key=lambda trial: (not trial.kept, trial.drop))


@dataclass(frozen=True, slots=True)
class ExportResult:
    """Result of an export; docs/outputs.md describes the JSON.

    Attributes:
        files: the requested files, including an existing fp32 file that was left in place.
        quantized_ops, bytes_by_part: of the smallest file; empty if the gate failed.
        gate: None if only fp32 was requested.
        target: the CPU that int8 files are for; empty if no file depends on it.
        machine: where latency was measured; empty if it was not.
        out: the folder of a single-domain or trimmed export; empty if the files are in the student's folder.
    """

    files: tuple[ExportedFile, ...] = ()
    quantized_ops: dict[str, int] = field(default_factory=dict)
    bytes_by_part: dict[str, int] = field(default_factory=dict)
    gate: Gate | None = None
    tries: tuple[Trial, ...] = ()
    target: str = ""
    machine: str = ""
    out: str = ""
    domain: str | None = None
    vocabulary: TrimReport | None = None

    @property
    def trim_drop(self) -> float:
        """Points of average dev accuracy lost by trimming; 0 without trimming."""
        return self.vocabulary.accuracy_drop if self.vocabulary is not None else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain values, without optional ones that are empty."""
        result: dict[str, Any] = {
            "files": [file.to_json() for file in self.files],
            "quantized_ops": self.quantized_ops,
            "bytes_by_part": self.bytes_by_part,
            "gate": asdict(self.gate) if self.gate else None,
        }
        if self.out:
            result["domain"] = self.domain
        optional = {
            "tries": [trial.to_json() for trial in self.tries],
            "target": self.target,
            "machine": self.machine,
            "out": self.out,
            "vocabulary": asdict(self.vocabulary) if self.vocabulary is not None else None,
        }
        return result | {name: value for name, value in optional.items() if value}


def accuracies(scores: Mapping[str, DomainScores]) -> dict[str, float]:
    """Return the accuracy by domain."""
    return {domain: score.accuracy for domain, score in scores.items()}


def accuracy_drop(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """Return the points of accuracy lost, averaged over domains; negative if accuracy rose."""
    drop = sum(before.values()) / len(before) - sum(after.values()) / len(after)
    # Rounded, so that 0.9 - 0.895 is exactly half a point. Adding 0.0 turns -0.0 into 0.0.
    return round(100 * drop, 6) + 0.0
