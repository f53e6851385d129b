"""The models of a run side by side: teacher, student, exported files and linear baselines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hrkd_cli.evaluation.provenance import find_teacher
from hrkd_cli.json_files import read_json_or_empty
from hrkd_cli.layout import ModelFiles, OnnxFiles
from hrkd_cli.reporting.run import Run

Json = dict[str, Any]

AVERAGE = "average"
_TEXT = {"tokens": 64, "threads": 1}  # whose latency is shown if only export measured latencies


@dataclass(frozen=True, slots=True)
class ComparedModel:
    """A model, as a column of the table; ``name`` is the heading.

    Attributes:
        scores: ``accuracy``, and ``interval`` if known, by domain and for their average; empty if not scored.
        dev: average dev accuracy.
        bytes: size of the weights.
        latency: median latency (``p50``) of a text, its number of ``tokens``, and ``threads``; empty if not measured.
        is_baseline: whether it is a linear model.
        is_own: whether it is the run's own model or one of its exported files.
        entry: its entry in ``eval.json``; empty if there is none.
    """

    name: str
    scores: Json
    dev: float | None = None
    bytes: float | None = None
    latency: Json = field(default_factory=dict)
    is_baseline: bool = False
    is_own: bool = False
    entry: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelComparison:
    """The models of a run; linear baselines are last.

    ``evaluated``: the scores are those of ``eval.json``, not of the dev split. ``advice``: the command that fills the
    gaps of the table; empty if there are none.
    """

    models: list[ComparedModel]
    evaluated: bool
    advice: str

    @property
    def domains(self) -> list[str]:
        """Names of the domains that a model was scored on."""
        return list(dict.fromkeys(name for model in self.models for name in model.scores if name != AVERAGE))

    @property
    def latency(self) -> Json:
        """Number of ``tokens`` and ``threads`` of the latencies; empty without any."""
        return next((model.latency for model in self.models if model.latency), {})

    @property
    def main(self) -> ComparedModel | None:
        """The smallest evaluated file of the run itself, whose mistakes are shown."""
        own = [model for model in self.models if model.is_own and model.entry]
        return min(own, key=lambda model: model.bytes or 0, default=None)


def compare_models(run: Run) -> ModelComparison:
    """Return the models of the last ``hrkd eval``, then those that only training and export scored, on dev."""
    known, models = {model.name: model for model in _known_models(run)}, _evaluated_models(run)
    if not models:
        return ModelComparison(list(known.values()), False, "hrkd eval")
    is_timed = any(model.latency for model in models)
    for n, model in enumerate(models):
        if other := known.pop(model.name, None):
            models[n] = replace(model, dev=other.dev, latency=model.latency if is_timed else other.latency)
    models += [replace(model, scores={}, latency={}) for model in known.values()]
    models.sort(key=lambda model: model.is_baseline)
    needs_floor = any(model.is_baseline and not model.scores for model in models)
    advice = "hrkd eval" + " --floor" * needs_floor + " --latency" * (not is_timed)
    complete = is_timed and all(model.scores for model in models)
    return ModelComparison(models, True, "" if complete else advice)


def _evaluated_models(run: Run) -> list[ComparedModel]:
    """Return the entries of ``eval.json``, without exported files that were replaced since."""
    models = []
    for entry in run.evaluation.get("models", ()):
        name, is_baseline = entry["model"], entry["kind"] == "floor"
        is_own = not is_baseline and not name.startswith("..") and (run.path / name).exists()
        exported = run.exported.get(str(entry.get("file"))) if is_own else None
        if exported is None or exported["bytes"] == entry.get("bytes"):
            heading, latency = _heading(run, entry, is_own=is_own), entry.get("latency_ms") or {}
            scores = {**entry["domains"], AVERAGE: entry["average"]}
            model = ComparedModel(heading, scores, None, entry.get("bytes"), latency, is_baseline, is_own, entry)
            models.append(model)
    counts = Counter(model.name for model in models)
    return [replace(m, name=m.entry["model"]) if counts[m.name] > 1 else m for m in models]


def _heading(run: Run, entry: Json, *, is_own: bool) -> str:
    if entry["kind"] == "floor":
        return _baseline_heading(entry["model"])
    if is_own:
        return _own_heading(run) if entry["kind"] == "torch" else str(entry["precision"])
    folder = run.path / entry["model"]
    if entry["kind"] == "torch":
        return "teacher" if folder.name == Path(_teacher_name(run)).name else folder.name
    return f"{'/'.join(folder.parts[-2:])} {entry['precision']}"


def _own_heading(run: Run) -> str:
    return "student" if run.stage == "distill" else "teacher"


def _baseline_heading(name: str) -> str:
    return f"linear on {'frozen encoder' if name.startswith('frozen') else 'words'}"


def _known_models(run: Run) -> Iterator[ComparedModel]:
    """Yield what training and export recorded of teacher, student, exported files and baselines."""
    teacher = find_teacher(run.path) if _teacher_name(run) else None
    results = read_json_or_empty(teacher / ModelFiles.run).get("results") or {} if teacher else {}
    dev = (results.get("best") or {}).get("dev") or {}
    if teacher and dev:
        yield _trained_model("teacher", teacher, dev)
    if run.best:
        yield _trained_model(_own_heading(run), run.path, run.best)
    for name, file in run.exported.items():
        accuracy = (file.get("dev") or {}).get("accuracy")
        if accuracy and name != OnnxFiles.fp32:  # its logits are the student's
            average = sum(accuracy.values()) / len(accuracy)
            scores = {domain: {"accuracy": value} for domain, value in {**accuracy, AVERAGE: average}.items()}
            times: list[Json] = file.get("latency") or []
            latency = next((time for time in times if time.items() >= _TEXT.items()), {})
            yield ComparedModel(file["precision"], scores, average, file["bytes"], latency)
    for name, average in ((run.run_json.get("results") or {}).get("baselines") or {}).items():
        yield ComparedModel(_baseline_heading(name), {AVERAGE: {"accuracy": average}}, average, is_baseline=True)


def _trained_model(name: str, folder: Path, dev: Json) -> ComparedModel:
    size = sum(file.stat().st_size for file in folder.glob("model*.safetensors")) or None
    return ComparedModel(name, {**dev["domains"], AVERAGE: dev["average"]}, dev["average"]["accuracy"], size)


def _teacher_name(run: Run) -> str:
    return ((run.run_json.get("models") or {}).get("teacher") or {}).get("name") or ""
