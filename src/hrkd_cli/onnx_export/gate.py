"""The accuracy that quantizing and trimming may cost."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from hrkd_cli.choices import Split
from hrkd_cli.data.dataset import Dataset
from hrkd_cli.errors import DataError
from hrkd_cli.evaluation.inputs import recorded_data
from hrkd_cli.evaluation.metrics import DomainScores
from hrkd_cli.evaluation.scoring import fit_heads, predict_labels, score_labels, split_rows
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
    if recorded and recorded.differs_from(dataset):
        on_event(Note(f"{source} is not the data that {student} was made from (its fingerprint differs)", warning=True))
    return dataset, str(source)


class AccuracyGate:
    """Scores a model once, then any number of smaller graphs against it, all on the dev split.

    Args:
        student: the model that graphs are made from.
        dataset: the data.
        model: what to call the model in errors.
        data: what to call the data.
        reference: accuracy by domain that losses count from; None for the model's own. A model with a trimmed
            vocabulary is gated against the student that it was made from.

    Raises:
        DataError: the data has no rows, or does not fit the model.
        ModelError: a classifier that is not ours lacks a label of the data.
    """

    def __init__(
        self,
        student: Backend,
        dataset: Dataset,
        *,
        model: str,
        data: str,
        reference: Mapping[str, float] | None = None,
        on_event: OnEvent = ignore,
    ) -> None:
        self.student = student
        self.dataset = dataset
        self.on_event = on_event
        self.rows = split_rows(dataset, SPLIT, data)
        self.heads: DomainHeads = fit_heads(student, dataset, self.rows, model, data)
        self._reference = reference

    @cached_property
    def scores(self) -> dict[str, DomainScores]:
        """The model's own scores by domain."""
        return self._score(self.student, "scoring the student on dev")

    @property
    def before(self) -> dict[str, float]:
        """The model's own accuracy by domain."""
        return {domain: scores.accuracy for domain, scores in self.scores.items()}

    def check(self, graph: Backend, max_drop: float, *, name: str = "int8") -> Gate:
        """Score a smaller graph one text at a time, as a device runs it.

        Args:
            graph: the graph.
            max_drop: points of average accuracy that may be lost.
            name: its precision, for progress.
        """
        accuracy = {d: s.accuracy for d, s in self._score(graph, f"scoring {name} on dev").items()}
        drop = points_lost(self._reference or self.before, accuracy)
        return Gate(max_drop, drop, drop <= max_drop, accuracy)

    def padded_drop(self, graph: Backend, *, name: str = "int8") -> float:
        """Return the points lost in batches that are padded to the full length, the worst case of a server."""
        scores = self._score(graph, f"scoring {name} on dev in padded batches", padded=True)
        return points_lost(self.before, {domain: one.accuracy for domain, one in scores.items()})

    def _score(self, backend: Backend, task: str, *, padded: bool = False) -> dict[str, DomainScores]:
        labels = predict_labels(backend, self.heads, self.rows, padded=padded, task=task, on_event=self.on_event)
        return score_labels(labels, self.heads.labels, self.rows)


def points_lost(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """Return the points of accuracy lost, averaged over domains."""
    lost = sum(before.values()) / len(before) - sum(after.values()) / len(after)
    # Rounded, so that 0.9 - 0.895 is half a point and not a hair more; 0.0 is added to make -0.0 a plain 0.
    return round(100 * lost, 6) + 0.0
