"""Teacher, student and exported graphs side by side on the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hrkd_cli.choices import Split
from hrkd_cli.data.dataset import Dataset
from hrkd_cli.errors import UsageError
from hrkd_cli.evaluation.floor import FLOOR, KIND, Floor, check_floor, make_floor
from hrkd_cli.evaluation.inputs import default_models, find_data, own_rows, recorded_data
from hrkd_cli.evaluation.latency import Latency, measure, typical_row
from hrkd_cli.evaluation.latency_table import measure_lengths
from hrkd_cli.evaluation.metrics import average
from hrkd_cli.evaluation.result import EvalResult, ModelResult, Padded
from hrkd_cli.evaluation.scoring import (
    Labels,
    disagreement,
    fit_heads,
    mean_accuracy,
    predict_labels,
    score_labels,
)
from hrkd_cli.events import Note, OnEvent, ignore
from hrkd_cli.machine import machine_name, usable_cpus
from hrkd_cli.predict.backend import Backend, open_backend
from hrkd_cli.predict.folder import locate
from hrkd_cli.predict.heads import DomainHeads

Names = dict[str, npt.NDArray[np.str_]]
"""Predicted label names by domain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalOptions:
    """How models are evaluated; see ``evaluate``."""

    split: Split = Split.TEST
    by_label: bool = False
    latency: bool = False
    threads: int | None = None
    device: str = "auto"
    floor: bool = False

    @property
    def used_threads(self) -> int:
        """Threads of a forward pass: those asked for, else one for each CPU that this process may use."""
        return usable_cpus() if self.threads is None else self.threads


def evaluate(
    models: Sequence[str | Path] | None = None,
    *,
    data: str | Path | None = None,
    split: Split | str = Split.TEST,
    by_label: bool = False,
    latency: bool = False,
    threads: int | None = None,
    device: str = "auto",
    floor: bool = False,
    on_event: OnEvent = ignore,
) -> EvalResult:
    """Evaluate models side by side.

    Args:
        models: model folders, ``onnx`` folders, ``.onnx`` files or hub ids; None for those of hrkd-out.
        data: prepared dataset or raw source; None for hrkd-out/dataset, else what the first model was made from.
        split: ``train``, ``dev``, ``test`` or ``all``.
        by_label: put the scores of each label into the JSON.
        latency: time each model, one text at a time: the text of median length, and by number of tokens.
        threads: threads of a forward pass; None for one a CPU.
        device: where torch models run; ONNX graphs run on the CPU.
        floor: train a linear model on the data's train split and put it last.
        on_event: told what is being done.

    Raises:
        UsageError: an option that no run could use.
        ModelError: something that is not a classifier, or that does not fit the data.
        DataError: data that cannot be read, or that does not fit the models.
    """
    from hrkd_cli.data.opening import load_for_evaluation

    options = EvalOptions(
        split=parse_split(split), by_label=by_label, latency=latency, threads=threads, device=str(device), floor=floor
    )
    if isinstance(models, (str, Path)):
        models = [models]
    chosen = list(models) if models else default_models()
    for model in chosen:
        locate(model)  # A wrong name among several is reported before the first is scored.
    source = data if data is not None else find_data(chosen)
    dataset = load_for_evaluation(source, options.split, on_event=on_event)
    for model in chosen:
        made_from = recorded_data(model)
        if made_from and made_from.fingerprint and dataset.path and made_from.fingerprint != dataset.fingerprint:
            text = f"{model} was made from other data than {source}: it may have learnt from rows that are scored here"
            on_event(Note(text, warning=True))
    rows = _common_rows(chosen, dataset, str(source), on_event)
    return evaluate_on(chosen, rows, options, data=str(source), learn_from=dataset, on_event=on_event)


def _common_rows(models: Sequence[str | Path], dataset: Dataset, data: str, on_event: OnEvent) -> Dataset:
    """Return the rows that all models can be scored on: where there are baked heads, their domain's.

    Raises:
        UsageError: heads of several domains.
    """
    common, baked = dataset, ""
    for model in models:
        rows = own_rows(model, dataset, data)
        if rows.domains == dataset.domains:
            continue
        if baked and rows.domains != common.domains:
            raise UsageError(
                f"{baked} is the head of {common.domains[0]!r} and {model} of {rows.domains[0]!r}: no row is for both; "
                "evaluate them one at a time"
            )
        on_event(Note(f"{model} is the head of {rows.domains[0]} alone: only that domain's rows are scored"))
        common, baked = rows, str(model)
    return common


def evaluate_on(
    models: Sequence[str | Path],
    dataset: Dataset,
    options: EvalOptions,
    *,
    data: str = "the data",
    learn_from: Dataset | None = None,
    on_event: OnEvent = ignore,
) -> EvalResult:
    """Evaluate models on a dataset in memory.

    Args:
        models: at least one.
        dataset: the rows.
        options: see ``EvalOptions``.
        data: what to call the dataset in messages.
        learn_from: whose train rows the floor learns from; None for ``dataset``.
        on_event: told what is being done.
    """
    learn_from = learn_from or dataset
    if options.floor:
        check_floor(learn_from, dataset, str(options.split), data)  # before the first model is scored
    results: list[ModelResult] = []
    first: Names | None = None
    timed: tuple[str, str | None] | None = None
    for model in models:
        backend = open_backend(model, threads=options.used_threads, device=options.device)
        heads = fit_heads(backend, dataset, options.split, str(model), data)
        if options.latency and timed is None:
            # One text for all models: the figures are compared.
            text, pair, _ = typical_row(backend, dataset, options.split)
            timed = text, pair
        result, names = _evaluate_model(str(model), backend, heads, dataset, options, first, timed, on_event)
        first = first or names
        results.append(result)
    if options.latency:
        results = _time_lengths(models, results, options, on_event)
    if options.floor and first is not None:
        floor = make_floor(learn_from, dataset, str(options.split), data, on_event)
        results.append(_floor_result(floor, dataset, str(options.split), first))
    machine = machine_name() if options.latency else ""
    return EvalResult(str(options.split), tuple(results), by_label=options.by_label, machine=machine)


def _time_lengths(
    models: Sequence[str | Path], results: Sequence[ModelResult], options: EvalOptions, on_event: OnEvent
) -> list[ModelResult]:
    """Add each model's time by number of tokens, with one thread and with all, the models taking turns."""
    on_event(Note("timing by number of tokens"))
    threads = sorted({1, options.used_threads})
    # By position: the same model may be named twice.
    named = {str(position): model for position, model in enumerate(models)}
    found = measure_lengths(named, threads=threads, device=options.device, on_event=on_event)
    return [replace(result, latency_lengths=found[str(position)]) for position, result in enumerate(results)]


def _evaluate_model(
    model: str,
    backend: Backend,
    heads: DomainHeads,
    dataset: Dataset,
    options: EvalOptions,
    first: Names | None,
    timed: tuple[str, str | None] | None,
    on_event: OnEvent,
) -> tuple[ModelResult, Names]:
    """Score one model; ``first`` holds the first model's labels, None when this is the first."""
    split = str(options.split)
    labels = predict_labels(backend, heads, dataset, split, task=f"scoring {model}", on_event=on_event)
    scores = score_labels(labels, heads, dataset, split)
    padded = None
    if backend.kind == "onnx":
        padded = _evaluate_padded(model, backend, heads, dataset, split, labels, on_event)
    names = _names(labels, heads)
    latency: Latency | None = None
    if timed is not None:
        on_event(Note(f"timing {model}"))
        latency = measure(backend, *timed, threads=options.used_threads)
    precision, parameters = describe_weights(model, backend)
    result = ModelResult(
        model=model,
        file=backend.file,
        kind=backend.kind,
        precision=precision,
        parameters=parameters,
        bytes=backend.bytes,
        domains=scores,
        average=average(list(scores.values())),
        agreement=_agreement(names, first or names),
        padded=padded,
        latency=latency,
    )
    return result, names


def _floor_result(floor: Floor, dataset: Dataset, split: str, first: Names) -> ModelResult:
    scores = score_labels(floor.labels, floor.heads, dataset, split)
    return ModelResult(
        model=FLOOR,
        file=None,
        kind=KIND,
        precision=None,
        parameters=None,
        bytes=None,
        domains=scores,
        average=average(list(scores.values())),
        agreement=_agreement(_names(floor.labels, floor.heads), first),
        floor=floor,
    )


def _evaluate_padded(
    model: str,
    backend: Backend,
    heads: DomainHeads,
    dataset: Dataset,
    split: str,
    labels: Labels,
    on_event: OnEvent,
) -> Padded:
    task = f"scoring {model} in padded batches"
    padded = predict_labels(backend, heads, dataset, split, padded=True, task=task, on_event=on_event)
    accuracy = mean_accuracy(score_labels(padded, heads, dataset, split))
    return Padded(accuracy, disagreement(labels, padded))


def describe_weights(model: str | Path, backend: Backend) -> tuple[str, int]:
    """Return the precision a model computes in, and its number of parameters."""
    location = locate(model)
    if backend.parameters is not None or location is None or location.graph is None:
        return "fp32", backend.parameters or 0
    from hrkd_cli.evaluation.graph import count_parameters, precision, read_graph

    graph = read_graph(location.graph)
    return precision(graph), count_parameters(graph)


def parse_split(split: Split | str) -> Split:
    """Turn the Python API's plain string into a Split.

    Raises:
        UsageError: there is no such split.
    """
    try:
        return Split(split)
    except ValueError:
        raise UsageError(f"--split: {split!r} is not one of {', '.join(Split)}") from None


def _names(labels: Labels, heads: DomainHeads) -> Names:
    return {d: np.array(heads.labels[d], dtype=np.str_)[positions] for d, positions in labels.items()}


def _agreement(names: Names, first: Names) -> float:
    rows = sum(map(len, names.values()))
    return sum(int((names[domain] == first[domain]).sum()) for domain in names) / rows
