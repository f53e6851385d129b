"""Evaluate a teacher, a student and exported files on the same rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hrkd_cli.choices import EvalDomain, Split
from hrkd_cli.command_settings import EvalSettings
from hrkd_cli.data.dataset import Dataset, TextRows
from hrkd_cli.errors import ModelError, UsageError
from hrkd_cli.evaluation.latency import Latency, measure_end_to_end, measure_forward, median_length_text
from hrkd_cli.evaluation.linear_baseline import BASELINE_KIND, LinearBaseline, train_linear_baselines
from hrkd_cli.evaluation.metrics import AccuracyDifference, AverageScores, DomainScores, average_scores, scores_to_json
from hrkd_cli.evaluation.onnx_inspect import count_parameters, load_onnx, weight_precision
from hrkd_cli.evaluation.provenance import (
    default_data,
    find_train_data,
    read_provenance,
    restrict_to_common_domains,
)
from hrkd_cli.evaluation.reliability import (
    Answers,
    describe_cascade,
    describe_confidence,
    find_suspects,
    judge,
    judge_without_domain,
)
from hrkd_cli.evaluation.scoring import (
    DomainLogits,
    PredictedLabels,
    agreement,
    compare_accuracy,
    count_domains,
    match_heads,
    predict_logits,
    score_labels,
    select_split,
)
from hrkd_cli.events import Note, OnEvent, Progress, ignore
from hrkd_cli.layout import STUDENT_OUT, TEACHER_OUT, ModelFiles, OnnxFiles
from hrkd_cli.machine import machine_name, usable_cpus
from hrkd_cli.models.model_source import check_classifier
from hrkd_cli.outputs import relative_path
from hrkd_cli.predict.backend import Backend, open_backend
from hrkd_cli.predict.calibration import AUTO, GIVEN, Calibration
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.predict.model_location import locate_model
from hrkd_cli.predict.model_spec import ModelSpec


@dataclass(frozen=True, slots=True)
class PaddedScores:
    """Accuracy of an ONNX file in padded batches, which change the results of dynamic int8.

    ``disagreement`` is the fraction of rows whose label differs from the one at batch size 1.
    """

    accuracy: float
    disagreement: float


@dataclass(frozen=True, slots=True)
class ModelResult:
    """Scores, size and latency of one model.

    Attributes:
        model: the argument of ``evaluate``; a description for a linear baseline.
        kind: ``"torch"``, ``"onnx"`` or ``"floor"`` (a linear baseline).
        domains: scores by domain, for an ONNX file at batch size 1.
        agreement: fraction of rows with the same label as the first model's.
        difference: accuracy minus that of the first model, with a paired interval; None for the first model.
        file: name of the weight file. This and the next three fields are None for a linear baseline.
        precision: ``"fp32"`` or that of an ONNX file, such as ``"int8"``.
        bytes: size of the weights on disk.
        confidence: how far probabilities can be trusted; empty for a linear baseline.
        found_domains: rows of each domain by the domain found; empty unless the model had to find it.
        padded: accuracy of an ONNX file in padded batches.
        latency: end-to-end latency, if requested.
        latency_lengths: latency of a forward pass by number of tokens and threads, if requested.
        floor: the linear baseline; None for a model.
    """

    model: str
    kind: str
    domains: dict[str, DomainScores]
    agreement: float
    difference: AccuracyDifference | None = None
    file: str | None = None
    precision: str | None = None
    parameters: int | None = None
    bytes: int | None = None
    confidence: dict[str, Any] = field(default_factory=dict)
    found_domains: dict[str, dict[str, int]] = field(default_factory=dict)
    padded: PaddedScores | None = None
    latency: Latency | None = None
    latency_lengths: tuple[Latency, ...] = ()
    floor: LinearBaseline | None = None

    @property
    def average(self) -> AverageScores:
        """Unweighted means over domains."""
        return average_scores(self.domains)

    def to_json(self, *, by_label: bool = False) -> dict[str, Any]:
        """Return the result as plain values, without fields that do not apply to this model."""
        common = ("model", "file", "kind", "precision", "parameters", "bytes")
        entry: dict[str, Any] = {name: getattr(self, name) for name in common}
        if self.floor is not None:
            entry["floor"] = self.floor.to_json()
        if self.padded is not None:
            entry["padded"] = asdict(self.padded)
        entry |= {**scores_to_json(self.domains, by_label=by_label), "agreement": self.agreement}
        if self.difference is not None:
            entry["difference"] = asdict(self.difference) | {"interval": list(self.difference.interval)}
        if self.confidence:
            entry["confidence"] = self.confidence
        if self.found_domains:
            right = [counts[domain] / sum(counts.values()) for domain, counts in self.found_domains.items()]
            entry |= {"domain_accuracy": sum(right) / len(right), "found_domains": self.found_domains}
        if self.latency is not None:
            entry["latency_ms"] = self.latency.to_json()
        if self.latency_lengths:
            entry["latency"] = [latency.to_json() for latency in self.latency_lengths]
        return entry


@dataclass(frozen=True, slots=True)
class EvalResult:
    """Results of several models on the same rows of a split; linear baselines are last.

    Attributes:
        split: the split that was scored.
        data: name of the data.
        domain: ``"given"``, or ``"auto"`` if the models had to find the domain of each row.
        models: results in the order of the arguments.
        by_label: whether ``to_json`` includes the scores of each label.
        machine: the machine on which latencies were measured; empty without latencies.
        cascade: the first model with a fallback for what it is not certain of (see ``describe_cascade``), if requested.
    """

    split: str
    models: tuple[ModelResult, ...]
    data: str = ""
    domain: str = EvalDomain.GIVEN
    by_label: bool = False
    machine: str = ""
    cascade: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain values."""
        models = [model.to_json(by_label=self.by_label) for model in self.models]
        optional = {"machine": self.machine, "cascade": self.cascade}
        present = {name: value for name, value in optional.items() if value}
        return {"split": self.split, "data": self.data, "domain": str(self.domain), "models": models, **present}

    def store(self, on_event: OnEvent = ignore) -> None:
        """Write the result to the folder of each model that hrkd made, for ``report``."""
        locations = [None if model.floor else locate_model(model.model) for model in self.models]
        roots = [location.root for location in locations if location is not None]
        for folder in {root for root in roots if (root / ModelFiles.run).is_file()}:
            content = replace(self, by_label=True).to_json()
            for entry, location in zip(content["models"], locations, strict=True):
                if location is not None:  # relative to the folder, which may be moved
                    entry["model"] = relative_path(Path(entry["model"]), folder)
            file = folder / ModelFiles.evaluation
            try:
                file.write_text(json.dumps(content) + "\n", encoding="utf-8")
            except OSError as error:
                on_event(Note(f"{file}: cannot be written ({error.strerror}), so hrkd report will not show this"))


def evaluate(
    models: Sequence[str | Path] | str | Path | None = None, *, on_event: OnEvent = ignore, **options: Any
) -> EvalResult:
    """Evaluate models on the same rows, and store the result in the folders of teachers and students.

    Args:
        models: model folders, ``onnx`` folders, ``.onnx`` files or hub ids; None for those in ``hrkd-out``.
        on_event: called with every event.
        **options: the other fields of ``hrkd_cli.command_settings.EvalSettings``: ``data``, ``split``, ``domain``,
            ``by_label``, ``latency``, ``threads``, ``device``, ``floor`` and ``fallback``. Without ``data``, evaluates
            on hrkd-out/dataset, else on the data that the first model was made from.

    Raises:
        UsageError: an option is invalid.
        ModelError: a model is not a classifier, or does not match the data.
        DataError: the data cannot be read, or does not match the models.
    """
    from hrkd_cli.data.dataset_loading import load_for_evaluation

    settings = EvalSettings(**options)
    if isinstance(models, (str, Path)):
        models = [models]
    names: list[str | Path] = [*models] if models else [*_default_models()]
    if settings.fallback is not None and settings.fallback not in map(str, names):
        names.append(settings.fallback)
    if settings.fallback is not None and settings.fallback == str(names[0]):
        raise UsageError(f"--fallback: {settings.fallback} is the first model; name another one")
    for name in names:
        check_classifier(name)  # Report a mistyped name before the first model is scored.
    source = settings.data if settings.data is not None else default_data(names)
    dataset = load_for_evaluation(source, settings.split, on_event=on_event)
    for name in names:
        provenance = read_provenance(name)
        if provenance and provenance.differs_from(dataset):
            text = f"{name} was made from other data than {source}: it may have seen the rows that are scored here"
            on_event(Note(text, warning=True))
    common = restrict_to_common_domains(names, dataset, str(source), on_event=on_event)
    train_data = find_train_data(names, dataset, on_event) if settings.floor else dataset
    result = evaluate_on(names, common, settings, data_name=str(source), train_data=train_data, on_event=on_event)
    result.store(on_event)
    return result


def _default_models() -> list[Path]:
    """Return the teacher, student and exported files in ``hrkd-out``; ModelError if there are none."""
    models = [folder for folder in (TEACHER_OUT, STUDENT_OUT) if (folder / ModelFiles.config).is_file()]
    onnx_folder = STUDENT_OUT / ModelFiles.onnx
    if any((onnx_folder / name).is_file() for name in (OnnxFiles.int8, OnnxFiles.fp32)):
        models.append(onnx_folder)
    if not models:
        raise ModelError(
            f"no model in {TEACHER_OUT} or {STUDENT_OUT}: name models to compare, or run hrkd distill first"
        )
    return models


def evaluate_on(
    models: Sequence[str | Path],
    dataset: Dataset,
    settings: EvalSettings,
    *,
    data_name: str = "the data",
    train_data: Dataset | None = None,
    on_event: OnEvent = ignore,
) -> EvalResult:
    """Evaluate models (at least one) on a dataset in memory, which errors call ``data_name``.

    Linear baselines are trained on the train rows of ``train_data``, by default the dataset. ``models`` and ``data`` in
    the settings are ignored; a ``fallback`` must be among the models.
    """
    split, device, threads = str(settings.split), str(settings.device), settings.threads or usable_cpus()
    rows = select_split(dataset, split, data_name)
    if without := [domain for domain in dataset.domains if domain not in rows]:
        on_event(Note(f"{data_name}: no {split} rows of {', '.join(without)}", warning=True))
    baselines: list[LinearBaseline] = []
    if settings.floor:
        train_data = train_data or dataset
        _check_baselines(train_data, settings)
        baselines = train_linear_baselines(models, train_data, rows, data_name, device=device, on_event=on_event)
    results: list[ModelResult] = []
    answers: dict[str, Answers] = {}
    timed_text: tuple[str, str | None] | None = None  # the same for all models, so that times are comparable
    for model in models:
        on_event(Progress(f"loading {model}"))
        backend = open_backend(model, threads=threads, device=device)
        heads = match_heads(backend, dataset, rows, str(model), data_name)
        first = answers[str(models[0])] if results else None
        result, answers[str(model)] = _score_model(str(model), backend, heads, rows, settings, first, on_event)
        if settings.latency:
            timed_text = timed_text or median_length_text(backend, rows)
            on_event(Progress(f"timing {model}"))
            result = replace(result, latency=measure_end_to_end(backend, *timed_text, threads=threads))
        results.append(result)
    if settings.latency:
        on_event(Progress("timing by number of tokens"))
        # Keyed by position: the same model may be named twice.
        openers = {str(n): partial(open_backend, model, device=device) for n, model in enumerate(models)}
        latencies = measure_forward(openers, threads=sorted({1, threads}), on_event=on_event)
        results = [replace(result, latency_lengths=latencies[str(n)]) for n, result in enumerate(results)]
    first_labels = answers[str(models[0])].labels
    results += [_score_baseline(baseline, dataset, rows, first_labels) for baseline in baselines]
    return EvalResult(
        split,
        tuple(results),
        data=data_name,
        domain=settings.domain,
        by_label=settings.by_label,
        machine=machine_name() if settings.latency else "",
        cascade=None if settings.fallback is None else _describe_cascade(results, answers, settings.fallback),
    )


def _score_baseline(
    baseline: LinearBaseline, dataset: Dataset, rows: Mapping[str, TextRows], first_labels: PredictedLabels
) -> ModelResult:
    # It may answer with labels that only its train rows have.
    names = {domain: sorted({*dataset.labels[domain], *own.tolist()}) for domain, own in baseline.labels.items()}
    scores, common = score_labels(baseline.labels, names, rows), agreement(baseline.labels, first_labels)
    difference = compare_accuracy(baseline.labels, first_labels, rows)
    return ModelResult(baseline.features.baseline, BASELINE_KIND, scores, common, difference, floor=baseline)


def _describe_cascade(results: Sequence[ModelResult], answers: Mapping[str, Answers], fallback: str) -> dict[str, Any]:
    """Return the cascade of the first model and the fallback, with the latency of a text of median length."""
    first, larger = results[0], next(result for result in results if result.model == fallback)
    times = [result.latency.p50 for result in (first, larger) if result.latency is not None]
    cascade = describe_cascade(answers[first.model], answers[fallback], (times[0], times[1]) if times else None)
    return {"model": first.model, "fallback": fallback, **cascade}


def _check_baselines(train_data: Dataset, settings: EvalSettings) -> None:
    """Raise UsageError for a split or domains that linear baselines cannot be compared on."""
    if settings.split in (Split.TRAIN, Split.ALL):
        raise UsageError(f"--floor trains on the train split, which --split {settings.split} scores; use dev or test")
    if settings.domain == EvalDomain.AUTO and len(set(train_data.labels.values())) > 1:
        raise UsageError(
            "--floor: domains with different labels have a linear model each, which needs the domain; leave out "
            "--floor or --domain auto"
        )


def _score_model(
    name: str,
    backend: Backend,
    heads: DomainHeads,
    rows: Mapping[str, TextRows],
    settings: EvalSettings,
    first: Answers | None,
    on_event: OnEvent,
) -> tuple[ModelResult, Answers]:
    """Return the result of a model, without latency, and its answers.

    ``first`` are the answers of the first model; None if it is this one.
    """
    spec = backend.spec
    find_domains = settings.domain == EvalDomain.AUTO and len(spec.all_heads.domains) > 1
    if find_domains and not (spec.finds_domains or spec.all_heads.share_labels):
        raise UsageError(
            f"--domain auto: {backend.name_or_path} was not trained to find the domain of a text, and its domains have "
            "different labels; leave the option out, or train the model again"
        )
    calibration = Calibration.read(spec.config, backend.file)
    true_labels = {domain: part.labels for domain, part in rows.items()}

    def judge_rows(logits: DomainLogits) -> Answers:
        return judge_without_domain(logits, true_labels, spec) if find_domains else judge(logits, true_labels, heads)

    raw = predict_logits(backend, rows, task=f"scoring {name}", on_event=on_event)
    logits = _calibrate(raw, calibration, spec)
    answers = judge_rows(logits)
    precision, parameters, padded = "fp32", backend.parameters, None
    if backend.kind == "onnx":
        onnx_model = load_onnx(Path(backend.name_or_path))
        precision, parameters = weight_precision(onnx_model), count_parameters(onnx_model)
        task = f"scoring {name} in padded batches"
        padded_logits = predict_logits(backend, rows, padded=True, task=task, on_event=on_event)
        in_batches = judge_rows(_calibrate(padded_logits, calibration, spec))
        padded = _compare_padded(in_batches.labels, answers.labels, heads, rows)
    promises: Sequence[Mapping[str, float]] = ()
    if calibration is not None:
        promises = calibration.thresholds.get(AUTO if find_domains else GIVEN) or ()
    confidence = describe_confidence(answers, judge_rows(raw) if calibration is not None else None, promises)
    result = ModelResult(
        name,
        backend.kind,
        score_labels(answers.labels, heads.labels, rows),
        agreement=1.0 if first is None else agreement(answers.labels, first.labels),
        difference=None if first is None else compare_accuracy(answers.labels, first.labels, rows),
        file=backend.file,
        precision=precision,
        parameters=parameters,
        bytes=backend.bytes,
        confidence=confidence | {"suspects": find_suspects(logits, rows, heads)},
        found_domains=count_domains(answers.domains, heads.domains),
        padded=padded,
    )
    return result, answers


def _calibrate(logits: DomainLogits, calibration: Calibration | None, spec: ModelSpec) -> DomainLogits:
    """Return the logits that ``predict`` answers from. Calibration may change which domain is found."""
    if calibration is None:
        return logits
    return {name: calibration.apply(own, spec.all_heads) for name, own in logits.items()}


def _compare_padded(
    padded: PredictedLabels, labels: PredictedLabels, heads: DomainHeads, rows: Mapping[str, TextRows]
) -> PaddedScores:
    """Score the labels of padded batches and compare them with those at batch size 1."""
    accuracy = average_scores(score_labels(padded, heads.labels, rows)).accuracy
    differs = np.concatenate([labels[domain] != padded[domain] for domain in rows])
    return PaddedScores(accuracy, float(differs.mean()))
