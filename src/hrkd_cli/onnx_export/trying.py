"""Recipes tried from the fastest to the safest until one passes the accuracy gate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hrkd_cli.events import Note, OnEvent
from hrkd_cli.onnx_export.calibrate import Extremes, activation_extremes, calibration_inputs
from hrkd_cli.onnx_export.gate import SPLIT, AccuracyGate
from hrkd_cli.onnx_export.quantize import write_smaller
from hrkd_cli.onnx_export.recipes import FILES, Precision, Recipe, ladder
from hrkd_cli.onnx_export.result import Try
from hrkd_cli.onnx_export.targets import Weights
from hrkd_cli.predict.backend import OnnxBackend


@dataclass(frozen=True, slots=True)
class Made:
    """The last rung that was tried for a precision.

    Attributes:
        precision: of the file.
        tries: all recipes tried, in order; the one of the file is marked where it passed.
        operators: quantised operators by type.
        padded_drop: points lost in padded batches; None where the gate failed.
    """

    precision: Precision
    tries: tuple[Try, ...]
    operators: dict[str, int]
    padded_drop: float | None

    @property
    def best(self) -> Try:
        """The try that was kept, else the one that lost least."""
        kept = [entry for entry in self.tries if entry.kept]
        return kept[0] if kept else min(self.tries, key=lambda entry: entry.gate.drop)


class Maker:
    """Makes smaller files of one fp32 graph in a working folder."""

    def __init__(
        self, student: Path, folder: Path, gate: AccuracyGate, weights: Weights, max_drop: float, on_event: OnEvent
    ) -> None:
        self.student = student
        self.folder = folder
        self.gate = gate
        self.weights = weights
        self.max_drop = max_drop
        self.on_event = on_event
        self._extremes: Mapping[str, Extremes] | None = None

    def make(self, precision: Precision) -> Made:
        """Try recipes until one passes, and leave its file in the folder under its own name; none if none passes."""
        tries: list[Try] = []
        operators: dict[str, int] = {}
        target = self.folder / FILES[precision]
        for rung in ladder(precision, reduced=self.weights.bits < 8):
            best: Try | None = None
            for recipe in rung:
                found, counts = self._try(recipe)
                tries.append(found)
                operators = operators or counts
                if found.gate.passed and (best is None or found.gate.drop < best.gate.drop):
                    best, operators = found, counts
                    self._draft.replace(target)
            self._draft.unlink(missing_ok=True)
            if best is not None:
                tries = [replace(entry, kept=entry is best) for entry in tries]
                return Made(precision, tuple(tries), operators, self._padded(precision, target))
        return Made(precision, tuple(tries), operators, None)

    @property
    def _draft(self) -> Path:
        return self.folder / "try.onnx"

    def _try(self, recipe: Recipe) -> tuple[Try, dict[str, int]]:
        precision = recipe.precision
        self.on_event(Note(f"{precision}: {recipe.text}"))
        extremes = self._measured() if precision is Precision.INT8_STATIC else None
        source = self.folder / FILES[Precision.FP32]
        counts = write_smaller(source, self._draft, recipe, weights=self.weights, extremes=extremes)
        measured = self.gate.check(OnnxBackend(self.student, self._draft), self.max_drop, name=precision)
        self.on_event(Note(f"{precision}: {recipe.text}: {measured.drop:+.2f} points lost on dev"))
        size = self._draft.stat().st_size
        return Try(precision, recipe.text, size, measured), counts

    def _measured(self) -> Mapping[str, Extremes]:
        if self._extremes is None:
            inputs = calibration_inputs(self.gate.student.encoder, self.gate.dataset, SPLIT)
            source = self.folder / FILES[Precision.FP32]
            self._extremes = activation_extremes(source, inputs, on_event=self.on_event)
        return self._extremes

    def _padded(self, precision: Precision, path: Path) -> float:
        padded = self.gate.padded_drop(OnnxBackend(self.student, path), name=precision)
        if padded > self.max_drop:
            text = f"{precision} loses {padded:.2f} points in padded batches of dev texts; run it one text at a time"
            self.on_event(Note(text, warning=True))
        return padded
