"""The accuracy that quantizing and trimming may cost, and the search for a recipe that costs no more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from hrkd_cli.choices import Split
from hrkd_cli.command_settings import ExportSettings
from hrkd_cli.data.dataset import Dataset
from hrkd_cli.evaluation.latency import sample_texts
from hrkd_cli.evaluation.metrics import DomainScores
from hrkd_cli.evaluation.provenance import default_data, read_provenance, restrict_to_single_domain
from hrkd_cli.evaluation.scoring import match_heads, predict_labels, score_labels, select_split
from hrkd_cli.events import Note, OnEvent, Progress
from hrkd_cli.models.torch_backend import TorchBackend
from hrkd_cli.onnx_export.quantizers import Arrays, QuantizerInputs, Weights
from hrkd_cli.onnx_export.recipes import FILES, FORMATS, Precision, Recipe, write_smaller
from hrkd_cli.onnx_export.record import Try, accuracies, points_lost
from hrkd_cli.predict.backend import Backend, OnnxBackend

SPLIT = str(Split.DEV)
CALIBRATION_TEXTS = 256


def load_gate_data(settings: ExportSettings, *, on_event: OnEvent) -> tuple[Dataset, str]:
    """Open the data that the gate scores on, and say what it is called.

    That is the settings' ``data``, else the dataset that the student was made from, else hrkd-out/dataset.
    """
    from hrkd_cli.data.dataset_loading import load_for_evaluation

    student, recorded = settings.student, read_provenance(settings.student)
    source: str | Path | None = settings.data
    if source is None:
        source = recorded.path if recorded and recorded.path.exists() else default_data([student])
    dataset = load_for_evaluation(source, Split.DEV, on_event=on_event)
    if recorded and recorded.differs_from(dataset):
        on_event(Note(f"{source} is not the data that {student} was made from (its fingerprint differs)", warning=True))
    return dataset, str(source)


class AccuracyGate:
    """Scores a model once, then any number of smaller graphs against it, all on the dev split of its own domains.

    Losses count from ``student``, or from the model itself. A model with a trimmed vocabulary is gated against the
    student that it was made from. ``data`` is what to call the dataset in errors.

    Raises:
        DataError, ModelError: the data has no rows, or does not fit the model.
    """

    def __init__(
        self,
        settings: ExportSettings,
        model: TorchBackend,
        dataset: Dataset,
        data: str,
        *,
        student: TorchBackend | None = None,
        on_event: OnEvent,
    ) -> None:
        self.settings = settings
        self.model = model
        self.dataset = restrict_to_single_domain([model.name_or_path], dataset, data)
        self.data = data
        self.on_event = on_event
        self.rows = select_split(self.dataset, SPLIT, data)
        self.scores = self.score(model, "scoring the student on dev")
        self.student_scores = self.score(student, "scoring the student on dev") if student is not None else self.scores

    def score(self, backend: Backend, task: str, *, padded: bool = False) -> dict[str, DomainScores]:
        """Score a classifier by domain, a graph one text at a time, as a device runs it (see ``predict_labels``)."""
        heads = match_heads(backend, self.dataset, self.rows, str(self.settings.student), self.data)
        labels = predict_labels(backend, heads, self.rows, padded=padded, task=task, on_event=self.on_event)
        return score_labels(labels, heads.labels, self.rows)

    def lost(self, scores: Mapping[str, DomainScores]) -> float:
        """Return the points of average accuracy that a model with these scores lost."""
        return points_lost(accuracies(self.student_scores), accuracies(scores))

    def calibration(self) -> Iterator[Arrays]:
        """Yield the model's inputs for evenly spread texts, one row each and without padding."""
        tokenizer = self.model.tokenizer
        rows = tokenizer.encode(*sample_texts(self.rows, CALIBRATION_TEXTS))
        for number, row in enumerate(rows, start=1):
            arrays = tokenizer.collate([row])
            yield {name: arrays[name] for name in self.model.inputs}
            self.on_event(Progress("measuring activations on dev", number, len(rows)))


class RecipeSearch:
    """Makes smaller files of the fp32 graph in a working folder; ``root`` is the folder of configuration."""

    def __init__(self, root: Path, folder: Path, gate: AccuracyGate, weights: Weights) -> None:
        self.root = root
        self.folder = folder
        self.gate = gate
        self.inputs = QuantizerInputs(weights, gate.calibration)
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
                if found.passed and (best is None or found.drop < best.drop):
                    best = found
                    self._draft.replace(target)
            self._draft.unlink(missing_ok=True)
            if best is not None:
                kept = replace(best, kept=True, padded_drop=self._padded_drop(precision, target))
                return [kept if entry is best else entry for entry in tries]
        return tries

    def _try(self, precision: Precision, recipe: Recipe) -> Try:
        self.gate.on_event(Note(f"{precision}: {recipe.text}"))
        write_smaller(self.folder / FILES[Precision.FP32], self._draft, precision, recipe, self.inputs)
        scores = self.gate.score(OnnxBackend(self.root, self._draft), f"scoring {precision} on dev")
        drop, size = self.gate.lost(scores), self._draft.stat().st_size
        self.gate.on_event(Note(f"{precision}: {recipe.text}: {drop:+.2f} points lost on dev"))
        return Try(precision, recipe.text, size, drop, drop <= self.gate.settings.max_drop, accuracies(scores))

    def _padded_drop(self, precision: Precision, path: Path) -> float:
        """Return the points lost in batches that are padded to the full length, the worst case of a server."""
        gate, task = self.gate, f"scoring {precision} on dev in padded batches"
        scores = gate.score(OnnxBackend(self.root, path), task, padded=True)
        lost = points_lost(accuracies(gate.scores), accuracies(scores))
        if lost > gate.settings.max_drop:
            text = f"{precision} loses {lost:.2f} points in padded batches of dev texts; run it one text at a time"
            gate.on_event(Note(text, warning=True))
        return lost
