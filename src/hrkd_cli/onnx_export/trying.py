"""Recipes tried from the fastest to the safest until one passes the accuracy gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from hrkd_cli.data.dataset import Dataset
from hrkd_cli.events import Note, OnEvent
from hrkd_cli.onnx_export.gate import SPLIT, AccuracyGate
from hrkd_cli.onnx_export.quantizers import Arrays, QuantizerInputs
from hrkd_cli.onnx_export.recipes import FORMATS, Precision, Recipe, write_smaller
from hrkd_cli.onnx_export.result import Try
from hrkd_cli.onnx_export.targets import Weights
from hrkd_cli.predict.backend import OnnxBackend
from hrkd_cli.predict.tokenization import TextTokenizer

CALIBRATION_TEXTS = 256


def calibration_inputs(encoder: TextTokenizer, dataset: Dataset, split: str) -> list[Arrays]:
    """Return the inputs of evenly spread rows of a split, one row each and without padding."""
    rows: list[tuple[str, str | None]] = []
    for domain in dataset.domains:
        part = dataset.split(domain, split)
        pairs: Sequence[str | None] = part.pairs or [None] * len(part.texts)
        rows += list(zip(part.texts, pairs, strict=True))
    count = min(CALIBRATION_TEXTS, len(rows))
    chosen = [rows[i] for i in np.linspace(0, len(rows) - 1, num=count).round().astype(int)]
    seconds = [second for _, second in chosen if second is not None]
    return [encoder.collate([row]) for row in encoder.encode([first for first, _ in chosen], seconds or None)]


@dataclass(frozen=True, slots=True)
class Made:
    """The last rung that was tried for a precision.

    Attributes:
        precision: of the file.
        tries: all recipes tried, in order; the one of the file is marked where it passed.
        operators: quantized operators by type.
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
        self.max_drop = max_drop
        self.on_event = on_event
        calibration = cache(lambda: calibration_inputs(gate.student.encoder, gate.dataset, SPLIT))
        self.inputs = QuantizerInputs(weights, calibration, on_event)
        self._draft = folder / "try.onnx"

    def make(self, precision: Precision) -> Made:
        """Try recipes until one passes, and leave its file in the folder under its own name; none if none passes."""
        tries: list[Try] = []
        operators: dict[str, int] = {}
        target = self.folder / FORMATS[precision].file
        for rung in FORMATS[precision].ladder(self.inputs.weights):
            best: Try | None = None
            for recipe in rung:
                found, counts = self._try(precision, recipe)
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

    def _try(self, precision: Precision, recipe: Recipe) -> tuple[Try, dict[str, int]]:
        self.on_event(Note(f"{precision}: {recipe.text}"))
        source = self.folder / FORMATS[Precision.FP32].file
        counts = write_smaller(source, self._draft, precision, recipe, self.inputs)
        measured = self.gate.check(OnnxBackend(self.student, self._draft), self.max_drop, name=precision)
        self.on_event(Note(f"{precision}: {recipe.text}: {measured.drop:+.2f} points lost on dev"))
        size = self._draft.stat().st_size
        return Try(precision, recipe.text, size, measured), counts

    def _padded(self, precision: Precision, path: Path) -> float:
        padded = self.gate.padded_drop(OnnxBackend(self.student, path), name=precision)
        if padded > self.max_drop:
            text = f"{precision} loses {padded:.2f} points in padded batches of dev texts; run it one text at a time"
            self.on_event(Note(text, warning=True))
        return padded
