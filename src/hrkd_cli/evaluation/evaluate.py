"""Teacher, student and exported graphs side by side on the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hrkd_cli.choices import Device, Split
from hrkd_cli.command_settings import EvalSettings
from hrkd_cli.data.dataset import Dataset
from hrkd_cli.errors import UsageError
from hrkd_cli.evaluation.floor import FLOOR, KIND, check_floor, make_floor
from hrkd_cli.evaluation.inputs import default_models, find_data, own_rows, recorded_data
from hrkd_cli.evaluation.latency import measure_lengths, measure_text, typical_row
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


def evaluate(
    models: Sequence[str | Path] | None = None,
    *,
    data: str | Path | None = None,
    split: Split | str = Split.TEST,
    by_label: bool = False,
    latency: bool = False,
    threads: int | None = None,
    device: Device | str = Device.AUTO,
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

    options = EvalSettings.of(
        split=split, by_label=by_label, latency=latency, threads=threads, device=device, floor=floor
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
    options: EvalSettings,
    *,
    data: str = "the data",
    learn_from: Dataset | None = None,
    on_event: OnEvent = ignore,
) -> EvalResult:
    """Evaluate models on a dataset in memory.

    Args:
        models: at least one.
        dataset: the rows.
        options: its ``models`` and ``data`` are not read.
        data: what to call the dataset in messages.
        learn_from: whose train rows the floor learns from; None for ``dataset``.
        on_event: told what is being done.
    """
    learn_from, split, device = learn_from or dataset, str(options.split), str(options.device)
    threads = options.threads or usable_cpus()
    if options.floor:
        check_floor(learn_from, dataset, split, data)  # before the first model is scored
    results: list[ModelResult] = []
    first: Names = {}
    typical: tuple[str, str | None] | None = None  # one text for all models: the times are compared
    for model in models:
        backend = open_backend(model, threads=threads, device=device)
        heads = fit_heads(backend, dataset, split, str(model), data)
        labels = predict_labels(backend, heads, dataset, split, task=f"scoring {model}", on_event=on_event)
        padded = _padded(str(model), backend, heads, dataset, split, labels, on_event)
        first = first or _names(labels, heads)
        result = _result(str(model), backend.kind, labels, heads, dataset, split, first)
        precision, parameters = describe_weights(model, backend)
        result = replace(
            result, file=backend.file, bytes=backend.bytes, precision=precision, parameters=parameters, padded=padded
        )
        if options.latency:
            typical = typical or typical_row(backend, dataset, split)[:2]
            on_event(Note(f"timing {model}"))
            result = replace(result, latency=measure_text(backend, *typical, threads=threads))
        results.append(result)
    if options.latency:
        on_event(Note("timing by number of tokens"))
        # By position: the same model may be named twice.
        named = {str(position): model for position, model in enumerate(models)}
        found = measure_lengths(named, threads=sorted({1, threads}), device=device, on_event=on_event)
        results = [replace(result, latency_lengths=found[str(n)]) for n, result in enumerate(results)]
    if options.floor:
        floor = make_floor(learn_from, dataset, split, data, on_event)
        result = _result(FLOOR, KIND, floor.labels, floor.heads, dataset, split, first)
        results.append(replace(result, floor=floor))
    machine = machine_name() if options.latency else ""
    return EvalResult(split, tuple(results), by_label=options.by_label, machine=machine)


def _result(
    model: str, kind: str, labels: Labels, heads: DomainHeads, dataset: Dataset, split: str, first: Names
) -> ModelResult:
    """Score labels; ``first`` are those of the first model."""
    domains, names = score_labels(labels, heads, dataset, split), _names(labels, heads)
    rows = sum(map(len, names.values()))
    agreement = sum(int((names[domain] == first[domain]).sum()) for domain in names) / rows
    return ModelResult(model, kind, domains, average(list(domains.values())), agreement)


def _padded(
    model: str, backend: Backend, heads: DomainHeads, dataset: Dataset, split: str, labels: Labels, on_event: OnEvent
) -> Padded | None:
    """Score a graph once more in padded batches; None for a torch model."""
    if backend.kind != "onnx":
        return None
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


def _names(labels: Labels, heads: DomainHeads) -> Names:
    return {d: np.array(heads.labels[d], dtype=np.str_)[positions] for d, positions in labels.items()}
