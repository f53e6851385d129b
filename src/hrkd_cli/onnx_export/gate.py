"""The accuracy that quantizing and trimming may cost, and the search for a recipe that costs no more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np

from hrkd_cli.choices import Split
from hrkd_cli.command_settings import ExportSettings
from hrkd_cli.data.dataset import Dataset, Rows
from hrkd_cli.errors import DataError
from hrkd_cli.evaluation.inputs import recorded_data
from hrkd_cli.evaluation.metrics import DomainScores
from hrkd_cli.evaluation.scoring import fit_heads, predict_labels, score_labels, split_rows
from hrkd_cli.events import Note, OnEvent, ignore
from hrkd_cli.layout import DATASET, DATASET_OUT
from hrkd_cli.onnx_export.quantizers import Arrays, QuantizerInputs, Weights
from hrkd_cli.onnx_export.recipes import FILES, FORMATS, Precision, Recipe, write_smaller
from hrkd_cli.onnx_export.record import Gate, Try, accuracies, points_lost
from hrkd_cli.predict.backend import Backend, OnnxBackend
from hrkd_cli.predict.tokenization import TextTokenizer

SPLIT = str(Split.DEV)
CALIBRATION_TEXTS = 256


def load_gate_data(settings: ExportSettings, *, on_event: OnEvent = ignore) -> tuple[Dataset, str]:
    """Open the data that the gate scores on, and say what it is called.

    That is the settings' ``data``, else the dataset that the student was made from, else hrkd-out/dataset.
    """
    from hrkd_cli.data.opening import load_for_evaluation

    student, recorded = settings.student, recorded_data(settings.student)
    source: str | Path
    if settings.data is not None:
        source = settings.data
    elif recorded and recorded.path.exists():
        source = recorded.path
    elif (DATASET_OUT / DATASET.manifest).is_file():
        source = DATASET_OUT
    else:
        raise DataError(
            f"{student}: the data it was made from is not there, and a smaller precision is checked on its dev "
            "split; say where the data is with --data"
        )
    dataset = load_for_evaluation(source, Split.DEV, on_event=on_event)
    if recorded and recorded.differs_from(dataset):
        on_event(Note(f"{source} is not the data that {student} was made from (its fingerprint differs)", warning=True))
    return dataset, str(source)


class AccuracyGate:
    """Scores a model once, then any number of smaller graphs against it, all on the dev split.

    Args:
        settings: the student's folder, for errors, and the points of average accuracy that may be lost.
        student: the model that graphs are made from.
        dataset: the data.
        data: what to call the data in errors.
        reference: scores that losses count from; None for the model's own. A model with a trimmed vocabulary is gated
            against the student that it was made from.

    Raises:
        DataError, ModelError: the data has no rows, or does not fit the model.
    """

    def __init__(
        self,
        settings: ExportSettings,
        student: Backend,
        dataset: Dataset,
        data: str,
        *,
        reference: Mapping[str, DomainScores] | None = None,
        on_event: OnEvent = ignore,
    ) -> None:
        self.student = student
        self.on_event = on_event
        self.rows = split_rows(dataset, SPLIT, data)
        self.heads = fit_heads(student, dataset, self.rows, str(settings.student), data)
        self.max_drop = settings.max_drop
        self.reference = reference

    @cached_property
    def scores(self) -> dict[str, DomainScores]:
        """The model's own scores by domain."""
        return self._score(self.student, "scoring the student on dev")

    def judge(self, scores: Mapping[str, DomainScores]) -> Gate:
        """Return what a model with these scores costs."""
        accuracy = accuracies(scores)
        drop = points_lost(accuracies(self.reference or self.scores), accuracy)
        return Gate(self.max_drop, drop, drop <= self.max_drop, accuracy)

    def check(self, graph: Backend, *, name: str) -> Gate:
        """Score a smaller graph one text at a time, as a device runs it; ``name`` is its precision."""
        return self.judge(self._score(graph, f"scoring {name} on dev"))

    def padded_drop(self, graph: Backend, *, name: str) -> float:
        """Return the points lost in batches that are padded to the full length, the worst case of a server."""
        scores = self._score(graph, f"scoring {name} on dev in padded batches", padded=True)
        return points_lost(accuracies(self.scores), accuracies(scores))

    def _score(self, backend: Backend, task: str, *, padded: bool = False) -> dict[str, DomainScores]:
        labels = predict_labels(backend, self.heads, self.rows, padded=padded, task=task, on_event=self.on_event)
        return score_labels(labels, self.heads.labels, self.rows)


class RecipeSearch:
    """Makes smaller files of the fp32 graph in a working folder; ``student`` is the folder of configuration."""

    def __init__(self, student: Path, folder: Path, gate: AccuracyGate, weights: Weights) -> None:
        self.student = student
        self.folder = folder
        self.gate = gate
        self.on_event = gate.on_event
        calibration = cache(lambda: calibration_inputs(gate.student.encoder, gate.rows))
        self.inputs = QuantizerInputs(weights, calibration, gate.on_event)
        self._draft = folder / "try.onnx"

    def find(self, precision: Precision) -> list[Try]:
        """Try the recipes of one rung after another, and leave the best file of the first rung where one passes."""
        tries: list[Try] = []
        target = self.folder / FILES[precision]
        for rung in FORMATS[precision].ladder(self.inputs.weights):
            best: Try | None = None
            for recipe in rung:
                found = self._try(precision, recipe)
                tries.append(found)
                if found.gate.passed and (best is None or found.gate.drop < best.gate.drop):
                    best = found
                    self._draft.replace(target)
            self._draft.unlink(missing_ok=True)
            if best is not None:
                kept = replace(best, kept=True, padded_drop=self._padded_drop(precision, target))
                return [kept if entry is best else entry for entry in tries]
        return tries

    def _try(self, precision: Precision, recipe: Recipe) -> Try:
        self.on_event(Note(f"{precision}: {recipe.text}"))
        operators = write_smaller(self.folder / FILES[Precision.FP32], self._draft, precision, recipe, self.inputs)
        gate = self.gate.check(OnnxBackend(self.student, self._draft), name=precision)
        self.on_event(Note(f"{precision}: {recipe.text}: {gate.drop:+.2f} points lost on dev"))
        return Try(precision, recipe.text, self._draft.stat().st_size, gate, operators=operators)

    def _padded_drop(self, precision: Precision, path: Path) -> float:
        lost = self.gate.padded_drop(OnnxBackend(self.student, path), name=precision)
        if lost > self.gate.max_drop:
            text = f"{precision} loses {lost:.2f} points in padded batches of dev texts; run it one text at a time"
            self.on_event(Note(text, warning=True))
        return lost


def calibration_inputs(encoder: TextTokenizer, rows: Mapping[str, Rows]) -> list[Arrays]:
    """Return the inputs of evenly spread rows, one row each and without padding."""
    texts = [text for part in rows.values() for text in part.texts]
    pairs = [text for part in rows.values() for text in part.pairs or ()]
    chosen = np.linspace(0, len(texts) - 1, num=min(CALIBRATION_TEXTS, len(texts))).round().astype(int)
    seconds = [pairs[i] for i in chosen] if pairs else None
    return [encoder.collate([row]) for row in encoder.encode([texts[i] for i in chosen], seconds)]
