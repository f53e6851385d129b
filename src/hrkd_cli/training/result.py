"""The result of a stage, and the folder that it leaves: weights, tokenizer, model card, record."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hrkd_cli.data.dataset import Dataset
from hrkd_cli.errors import OutputError
from hrkd_cli.evaluation.metrics import scores_to_json
from hrkd_cli.layout import MODEL
from hrkd_cli.models.card import model_card
from hrkd_cli.models.folder import save_model, write_json
from hrkd_cli.predict.folder import read_json_or_empty
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.settings import TrainingSettings
from hrkd_cli.training.best_weights import AVERAGE
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.run_folder import RunFolder
from hrkd_cli.training.trainer import TrainOutput

PACKAGES = ("hrkd-cli", "torch", "transformers", "tokenizers", "numpy")


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A finished teach or distill run.

    Attributes:
        stage: ``"teach"`` or ``"distill"``.
        out: the folder written.
        steps: optimizer steps done.
        seconds: wall time of the training.
        examples_per_second: training speed.
        best_step: the step whose weights were kept.
        dev: dev scores of that step, in the shape of ``hrkd eval --json`` (domains and average).
    """

    stage: str
    out: Path
    steps: int
    seconds: float
    examples_per_second: float
    best_step: int
    dev: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``--json`` prints."""
        return {
            "out": str(self.out),
            "steps": self.steps,
            "seconds": self.seconds,
            "examples_per_second": self.examples_per_second,
            "best": {"step": self.best_step, "dev": self.dev},
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any], out: Path) -> TrainResult:
        """Return the result of a finished run from its ``hrkd.json``."""
        found = record["results"]
        best = found["best"]
        rate = found["examples_per_second"]
        return cls(record["stage"], out, found["steps"], found["seconds"], rate, best["step"], best["dev"])


def finished_before(out: Path, *, key: str, kind: str, is_ours: Callable[[Path], bool]) -> TrainResult | None:
    """Return the result of the very same run where it is finished already; None when there is none.

    Raises:
        OutputError: the output is of another run.
    """
    if not is_ours(out):
        return None
    record = read_json_or_empty(out / MODEL.run)
    if record.get("key") != key:
        raise OutputError(
            f"{out} exists already, from a run with other options or data; it is no run to go on with: "
            f"replace this {kind} with --force or choose another --out"
        )
    return TrainResult.from_record(record, out)


def write_model_folder(
    run: RunFolder,
    output: TrainOutput,
    context: TrainContext,
    *,
    stage: str,
    model: Any,
    tokenizer: Any,
    heads: DomainHeads,
    dataset: Dataset,
    settings: TrainingSettings,
    what: str,
    start: str,
    models: Mapping[str, Any],
    key: str,
    sources: Mapping[str, str] | None,
    texts: Mapping[str, Any] | None = None,
) -> TrainResult:
    """Write the folder of a trained model, and remove the weights kept during training.

    Where each domain's best weights were kept, those of other steps than the best average go to ``best/DOMAIN``.

    ``what`` says in a sentence how the model was made, ``start`` names the model that it was made from. ``models``
    (what the run started from, with fingerprints), ``sources`` (where each option came from: "flag", "environment",
    "file"; what is missing is a default) and ``texts`` (without labels) are for the record.
    """
    best = output.best[AVERAGE]
    rate, dev = output.examples_per_second, scores_to_json(best.scores)
    result = TrainResult(stage, run.out, output.steps, output.seconds, rate, best.step, dev)
    if not context.processes.is_main:
        return result
    cut: dict[str, Any] = {"max_length": settings.max_length, "truncate": settings.truncate}

    def save(folder: Path) -> None:
        save_model(model, tokenizer, folder, heads, pair=dataset.pair, **cut)

    for domain, saved in output.best.items():
        if saved.step != best.step:
            saved.load(model)
            save(run.work / MODEL.best / domain)
    best.load(model)
    save(run.work)
    title, millions = f"{run.out.name}: from {Path(start).name}", sum(p.numel() for p in model.parameters()) / 1e6
    what = f"{what} {millions:.1f} million parameters."
    card = model_card(title=title, what=what, heads=heads, scores=dev["domains"], **cut)
    (run.work / MODEL.readme).write_text(card, encoding="utf-8")
    data = {"path": relative_to(dataset.path, run.out), "fingerprint": dataset.fingerprint, **(texts or {})}
    options = settings.to_json().items()
    record = {
        "format": 1,
        "stage": stage,
        "options": {name: {"value": v, "from": (sources or {}).get(name, "default")} for name, v in options},
        "models": dict(models),
        "data": data,
        "versions": versions(),
        "precision": str(context.precision.precision),
        "key": key,
        "results": {name: value for name, value in result.to_json().items() if name != "out"},
    }
    write_json(run.work / MODEL.run, record)
    for file in run.work.glob("weights-*.safetensors"):
        file.unlink()
    return result


def run_key(**parts: Any) -> str:
    """Return a hash of everything that a run's result depends on: equal keys, equal results."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Return the installed versions of what decides a run's numbers."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def relative_to(path: Path | None, folder: Path) -> str | None:
    """Return ``path`` as seen from ``folder``, so that both can move together; absolute on another drive."""
    if path is None:
        return None
    try:
        return Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix()
    except ValueError:
        return str(path.absolute())
