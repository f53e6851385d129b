"""The accuracy that quantising may cost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hrkd_cli.choices import Split
from hrkd_cli.data.dataset import Dataset
from hrkd_cli.errors import DataError
from hrkd_cli.evaluation.inputs import own_rows, recorded_data
from hrkd_cli.evaluation.scoring import fit_heads, predict_labels, score_labels
from hrkd_cli.events import Note, OnEvent, ignore
from hrkd_cli.layout import DATASET, DATASET_OUT
from hrkd_cli.onnx_export.result import Gate
from hrkd_cli.predict.backend import Backend
from hrkd_cli.predict.heads import DomainHeads

SPLIT = str(Split.DEV)


def load_gate_data(student: Path, data: str | Path | None, *, on_event: OnEvent = ignore) -> tuple[Dataset, str]:
    """Open the data that the gate scores on, and say what it is called.

    Args:
        student: the model folder.
        data: prepared dataset or raw source; None for the one the student was made from, else hrkd-out/dataset.
        on_event: told when the data is not what the student was made from.

    Raises:
        DataError: there is none, or it cannot be read.
    """
    from hrkd_cli.data.opening import load_for_evaluation

    recorded = recorded_data(student)
    source = data
    if source is None:
        source = recorded.path if recorded and recorded.path.exists() else None
    if source is None and (DATASET_OUT / DATASET.manifest).is_file():
        source = DATASET_OUT
    if source is None:
        raise DataError(
            f"{student}: the data it was made from is not there, and a smaller precision is checked on its dev "
            "split; say where the data is with --data"
        )
    dataset = load_for_evaluation(source, Split.DEV, on_event=on_event)
    # Raw data has a fingerprint of its own: only prepared data can be compared.
    if recorded and recorded.fingerprint and dataset.path and recorded.fingerprint != dataset.fingerprint:
        on_event(Note(f"{source} is not the data that {student} was made from (its fingerprint differs)", warning=True))
    return own_rows(student, dataset, str(source)), str(source)


@dataclass(frozen=True, slots=True)
class Measured:
    """A graph's accuracy on the dev split.

    Attributes:
        gate: what it cost.
        accuracy: by domain, 0..1.
    """

    gate: Gate
    accuracy: dict[str, float]


class AccuracyGate:
    """Scores the student once, then any number of smaller graphs against it, all on the dev split."""

    def __init__(
        self, student: Backend, dataset: Dataset, *, model: str, data: str, on_event: OnEvent = ignore
    ) -> None:
        """Check that data and student fit each other; nothing is scored yet.

        Raises:
            DataError: the data has no rows, or does not fit the student.
            ModelError: a classifier that is not ours lacks a label of the data.
        """
        self.student = student
        self.dataset = dataset
        self.on_event = on_event
        self._before: dict[str, float] | None = None
        self.heads: DomainHeads = fit_heads(student, dataset, SPLIT, model, data)

    @property
    def before(self) -> dict[str, float]:
        """The student's own accuracy by domain."""
        if self._before is None:
            self._before = self._accuracy(self.student, "scoring the student on dev")
        return self._before

    def check(self, graph: Backend, max_drop: float, *, name: str = "int8") -> Measured:
        """Score a smaller graph one text at a time, as a device runs it.

        Args:
            graph: the graph.
            max_drop: points of average accuracy that may be lost.
            name: its precision, for progress.
        """
        accuracy = self._accuracy(graph, f"scoring {name} on dev")
        drop = self._drop(accuracy)
        return Measured(Gate(max_drop, drop, drop <= max_drop), accuracy)

    def padded_drop(self, graph: Backend, *, name: str = "int8") -> float:
        """Return the points lost in batches that are padded to the full length, the worst case of a server."""
        return self._drop(self._accuracy(graph, f"scoring {name} on dev in padded batches", padded=True))

    def _drop(self, accuracy: dict[str, float]) -> float:
        # Rounded, so that 0.9 - 0.895 is half a point and not a hair more; 0.0 is added to make -0.0 a plain 0.
        return round(100 * (_mean(self.before) - _mean(accuracy)), 6) + 0.0

    def _accuracy(self, backend: Backend, task: str, *, padded: bool = False) -> dict[str, float]:
        labels = predict_labels(
            backend, self.heads, self.dataset, SPLIT, padded=padded, task=task, on_event=self.on_event
        )
        scores = score_labels(labels, self.heads, self.dataset, SPLIT)
        return {domain: score.accuracy for domain, score in scores.items()}


def _mean(accuracy: dict[str, float]) -> float:
    """Return the mean over domains, each counted alike."""
    return sum(accuracy.values()) / len(accuracy)
