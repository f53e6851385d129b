"""Teacher, student and exported graphs side by side on the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hrkd_cli.command_settings import EvalSettings
from hrkd_cli.data.dataset import Dataset
from hrkd_cli.evaluation.latency import Latency, measure_end_to_end, measure_forward, median_length_text
from hrkd_cli.evaluation.linear_baseline import FLOOR, KIND, REGULARISATION, LinearBaseline, train_linear_baseline
from hrkd_cli.evaluation.metrics import AverageScores, DomainScores, average, scores_to_json
from hrkd_cli.evaluation.onnx_inspect import count_parameters, load_onnx, weight_precision
from hrkd_cli.evaluation.provenance import default_data, default_models, read_provenance, restrict_to_single_domain
from hrkd_cli.evaluation.scoring import Labels, agreement, match_heads, predict_labels, score_labels, select_split
from hrkd_cli.events import Note, OnEvent, ignore
from hrkd_cli.machine import machine_name, usable_cpus
from hrkd_cli.predict.backend import open_backend
from hrkd_cli.predict.model_location import locate_model


@dataclass(frozen=True, slots=True)
class PaddedScores:
    """An ONNX graph scored once more in padded batches, where dynamic int8 gives other results.

    ``disagreement`` is the share of rows whose label differs from that at batch 1.
    """

    accuracy: float
    disagreement: float


@dataclass(frozen=True, slots=True)
class ModelResult:
    """Scores and facts of one model.

    Attributes:
        model: the argument as it was given; of the floor, what it is.
        kind: ``"torch"``, ``"onnx"`` or ``"floor"``.
        domains: scores by domain; an ONNX graph's are those at batch 1.
        agreement: share of rows with the same label as the first model's.
        file: the weights; None for the floor, as their precision (as ``"int8"``), number and bytes.
        padded: a graph in padded batches.
        latency: from text to logits, where it was asked for.
        latency_lengths: of a forward pass, by number of tokens and threads, likewise.
        floor: how the floor was made; None for a model.
    """

    model: str
    kind: str
    domains: dict[str, DomainScores]
    agreement: float
    file: str | None = None
    precision: str | None = None
    parameters: int | None = None
    bytes: int | None = None
    padded: PaddedScores | None = None
    latency: Latency | None = None
    latency_lengths: tuple[Latency, ...] = ()
    floor: LinearBaseline | None = None

    @property
    def average(self) -> AverageScores:
        """Unweighted means over domains."""
        return average(self.domains)

    def to_json(self, *, by_label: bool = False) -> dict[str, Any]:
        """Return the figures as plain values; what does not apply is left out."""
        facts = ("model", "file", "kind", "precision", "parameters", "bytes")
        entry: dict[str, Any] = {name: getattr(self, name) for name in facts}
        if self.floor is not None:
            floor = {"train_rows": self.floor.rows, "words": self.floor.words}
            entry["floor"] = {**floor, "regularisation": REGULARISATION}
        if self.padded is not None:
            entry["padded"] = asdict(self.padded)
        entry |= {**scores_to_json(self.domains, by_label=by_label), "agreement": self.agreement}
        if self.latency is not None:
            entry["latency_ms"] = self.latency.to_json()
        if self.latency_lengths:
            entry["latency"] = [figure.to_json() for figure in self.latency_lengths]
        return entry


@dataclass(frozen=True, slots=True)
class EvalResult:
    """Several models on the same rows of a split; the floor is last.

    ``by_label``: whether ``to_json`` lists the scores of each label. ``machine`` is what latencies were measured on.
    """

    split: str
    models: tuple[ModelResult, ...]
    by_label: bool = False
    machine: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain values."""
        models = [model.to_json(by_label=self.by_label) for model in self.models]
        return {"split": self.split, "models": models} | ({"machine": self.machine} if self.machine else {})


def evaluate(
    models: Sequence[str | Path] | str | Path | None = None, *, on_event: OnEvent = ignore, **options: Any
) -> EvalResult:
    """Evaluate models side by side.

    Args:
        models: model folders, ``onnx`` folders, ``.onnx`` files or hub ids; None for those of hrkd-out.
        on_event: told what is being done.
        **options: ``data``, ``split``, ``by_label``, ``latency``, ``threads``, ``device`` and ``floor``: the other
            fields of ``hrkd_cli.command_settings.EvalSettings``. ``data`` may be a path; None is hrkd-out/dataset,
            else what the first model was made from.

    Raises:
        UsageError: an option that no run could use.
        ModelError: something that is not a classifier, or that does not fit the data.
        DataError: data that cannot be read, or that does not fit the models.
    """
    from hrkd_cli.data.dataset_loading import load_for_evaluation

    settings = EvalSettings(**options)
    if isinstance(models, (str, Path)):
        models = [models]
    chosen = list(models) if models else default_models()
    for model in chosen:
        locate_model(model)  # A wrong name among several is reported before the first is scored.
    source = settings.data if settings.data is not None else default_data(chosen)
    dataset = load_for_evaluation(source, settings.split, on_event=on_event)
    for model in chosen:
        made_from = read_provenance(model)
        if made_from and made_from.differs_from(dataset):
            text = f"{model} was made from other data than {source}: it may have learnt from rows that are scored here"
            on_event(Note(text, warning=True))
    common = restrict_to_single_domain(chosen, dataset, str(source), on_event=on_event)
    return evaluate_on(chosen, common, settings, data=str(source), learn_from=dataset, on_event=on_event)


def evaluate_on(
    models: Sequence[str | Path],
    dataset: Dataset,
    settings: EvalSettings,
    *,
    data: str = "the data",
    learn_from: Dataset | None = None,
    on_event: OnEvent = ignore,
) -> EvalResult:
    """Evaluate models (at least one) on a dataset in memory, which messages call ``data``.

    The floor learns from the train rows of ``learn_from``, or of the dataset. ``models`` and ``data`` of the settings
    are not read.
    """
    split, device, threads = str(settings.split), str(settings.device), settings.threads or usable_cpus()
    rows = select_split(dataset, split, data)
    floor = train_linear_baseline(learn_from or dataset, rows, split, data, on_event) if settings.floor else None
    results: list[ModelResult] = []
    first: Labels = {}
    typical: tuple[str, str | None] | None = None  # one text for all models: the times are compared
    for model in models:
        backend = open_backend(model, threads=threads, device=device)
        heads = match_heads(backend, dataset, rows, str(model), data)
        labels = predict_labels(backend, heads, rows, task=f"scoring {model}", on_event=on_event)
        padded = latency = None
        weights, parameters = "fp32", backend.parameters
        if backend.kind == "onnx":
            graph = load_onnx(Path(backend.name_or_path))
            weights, parameters = weight_precision(graph), count_parameters(graph)
            task = f"scoring {model} in padded batches"
            found = predict_labels(backend, heads, rows, padded=True, task=task, on_event=on_event)
            changed = np.concatenate([labels[domain] != found[domain] for domain in rows])
            padded = PaddedScores(average(score_labels(found, heads.labels, rows)).accuracy, float(changed.mean()))
        if settings.latency:
            typical = typical or median_length_text(backend, rows)
            on_event(Note(f"timing {model}"))
            latency = measure_end_to_end(backend, *typical, threads=threads)
        first = first or labels
        result = ModelResult(
            str(model),
            backend.kind,
            score_labels(labels, heads.labels, rows),
            agreement(labels, first),
            file=backend.file,
            precision=weights,
            parameters=parameters,
            bytes=backend.bytes,
            padded=padded,
            latency=latency,
        )
        results.append(result)
    if settings.latency:
        on_event(Note("timing by number of tokens"))
        # By position: the same model may be named twice.
        openers = {str(n): partial(open_backend, model, device=device) for n, model in enumerate(models)}
        times = measure_forward(openers, threads=sorted({1, threads}), on_event=on_event)
        results = [replace(result, latency_lengths=times[str(n)]) for n, result in enumerate(results)]
    if floor is not None:
        scores = score_labels(floor.labels, dataset.labels, rows)
        results.append(ModelResult(FLOOR, KIND, scores, agreement(floor.labels, first), floor=floor))
    machine = machine_name() if settings.latency else ""
    return EvalResult(split, tuple(results), by_label=settings.by_label, machine=machine)
