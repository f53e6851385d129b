"""The accuracy gate: how many points of dev accuracy quantization and trimming may lose."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hrkd_cli.choices import Split
from hrkd_cli.command_settings import ExportSettings
from hrkd_cli.data.dataset import Dataset
from hrkd_cli.data.dataset_folder import is_prepared
from hrkd_cli.evaluation.calibration_fit import fit_calibration
from hrkd_cli.evaluation.latency import sample_texts
from hrkd_cli.evaluation.metrics import DomainScores
from hrkd_cli.evaluation.provenance import default_data, read_provenance, restrict_to_common_domains
from hrkd_cli.evaluation.scoring import (
    DomainLogits,
    best_labels,
    match_heads,
    predict_logits,
    score_labels,
    select_split,
)
from hrkd_cli.events import Note, OnEvent, Progress, ignore
from hrkd_cli.formatting import join_names
from hrkd_cli.models.torch_backend import TorchBackend
from hrkd_cli.onnx_export.export_result import accuracies, accuracy_drop
from hrkd_cli.onnx_export.graph_editor import ModelInputs
from hrkd_cli.predict.backend import Backend

GATE_SPLIT = str(Split.DEV)
CALIBRATION_TEXTS = 256


def load_gate_data(
    settings: ExportSettings, *, required: bool = True, on_event: OnEvent = ignore
) -> tuple[Dataset, str] | None:
    """Load the data that the gate scores, and return it with its name for error messages.

    It is ``--data``, else the dataset that the student was made from, else hrkd-out/dataset. If it is not ``required``
    (only fp32 is written), the dataset that the student was made from is used if it is still there, else None.
    """
    from hrkd_cli.data.dataset_loading import load_for_evaluation

    student, recorded = settings.student, read_provenance(settings.student)
    source: str | Path | None = settings.data
    optional = source is None and not required
    if optional and not (recorded and is_prepared(recorded.path)):
        return None
    if source is None:
        source = recorded.path if recorded and recorded.path.exists() else default_data([student])
    dataset = load_for_evaluation(source, Split.DEV, on_event=on_event)
    if recorded and recorded.differs_from(dataset):
        if optional:
            return None
        on_event(Note(f"{source} is not the data that {student} was made from (its fingerprint differs)", warning=True))
    return dataset, str(source)


class AccuracyGate:
    """Scores files on the dev split of the model's domains and compares them with the student.

    ``model`` is the torch model that the files are made from. If its vocabulary is trimmed, drops are relative to
    ``student``, else to ``model`` itself. ``data_name`` names the dataset in error messages. ``seconds`` is the time
    that scoring ``model`` took.

    Raises:
        DataError, ModelError: the data has no rows, or does not fit the model.
    """

    def __init__(
        self,
        settings: ExportSettings,
        model: TorchBackend,
        dataset: Dataset,
        data_name: str,
        *,
        student: TorchBackend | None = None,
        on_event: OnEvent,
    ) -> None:
        self.settings = settings
        self.model = model
        self.dataset = restrict_to_common_domains([model.name_or_path], dataset, data_name)
        self.data_name = data_name
        self.on_event = on_event
        self.rows = select_split(self.dataset, GATE_SPLIT, data_name)
        self.row_count = sum(map(len, self.rows.values()))
        domains = self.dataset.domains if model.spec.heads is None else model.spec.heads.domains
        if settings.domain is None and (unchecked := [domain for domain in domains if domain not in self.rows]):
            text = f"{data_name} has no dev rows of {join_names(unchecked)}: no file is checked on them, and the other "
            on_event(Note(f"{text}domains calibrate their answers; use --data with rows of them", warning=True))
        start = time.perf_counter()
        self.scores, self.logits = self.score(model, "scoring the student on dev")
        self.seconds = time.perf_counter() - start
        self.student_scores = self.scores
        if student is not None:
            self.student_scores, _ = self.score(student, "scoring the student on dev")

    def score(
        self, backend: Backend, task: str, *, padded: bool = False
    ) -> tuple[dict[str, DomainScores], DomainLogits]:
        """Return scores and logits by domain.

        An ONNX file reads one text at a time, as on a device, unless ``padded``.
        """
        heads = match_heads(backend, self.dataset, self.rows, str(self.settings.student), self.data_name)
        logits = predict_logits(backend, self.rows, padded=padded, task=task, on_event=self.on_event)
        return score_labels(best_labels(logits, heads), heads.labels, self.rows), logits

    def calibrate(self, logits: DomainLogits) -> dict[str, Any]:
        """Return the calibration of a file with these logits."""
        heads = match_heads(self.model, self.dataset, self.rows, str(self.settings.student), self.data_name)
        return fit_calibration(logits, {d: rows.labels for d, rows in self.rows.items()}, heads, self.model.spec)

    def accuracy_drop(self, scores: Mapping[str, DomainScores]) -> float:
        """Return the points of average accuracy lost relative to the student."""
        return accuracy_drop(accuracies(self.student_scores), accuracies(scores))

    def calibration(self) -> Iterator[ModelInputs]:
        """Yield calibration batches: evenly spread texts, one per batch and without padding."""
        tokenizer = self.model.tokenizer
        examples = tokenizer.encode(*sample_texts(self.rows, CALIBRATION_TEXTS))
        for done, example in enumerate(examples, start=1):
            arrays = tokenizer.pad([example])
            yield {name: arrays[name] for name in self.model.input_names}
            self.on_event(Progress("measuring activations on dev", done, len(examples)))
