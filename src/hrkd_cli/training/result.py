"""What teach and distill return and record."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hrkd_cli.data.dataset import Dataset

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


def run_key(**parts: Any) -> str:
    """Return a hash of everything that a run's result depends on: equal keys, equal results."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def run_record(
    result: TrainResult,
    *,
    options: Mapping[str, Any],
    sources: Mapping[str, str],
    dataset: Dataset,
    texts: Mapping[str, Any],
    models: Mapping[str, Any],
    key: str,
    precision: str,
) -> dict[str, Any]:
    """Return the content of ``hrkd.json``.

    Args:
        result: what the run came to.
        options: resolved settings.
        sources: where each came from ("flag", "environment", "file"); what is missing came from the defaults.
        dataset: the training data.
        texts: texts without labels that the run learnt from too.
        models: what the run started from, with fingerprints.
        key: see run_key.
        precision: what ``--precision`` came to on this machine.
    """
    return {
        "format": 1,
        "stage": result.stage,
        "options": {name: {"value": value, "from": sources.get(name, "default")} for name, value in options.items()},
        "models": dict(models),
        "data": {"path": relative_to(dataset.path, result.out), "fingerprint": dataset.fingerprint, **texts},
        "versions": {"python": platform.python_version(), **versions()},
        "precision": precision,
        "key": key,
        "results": {name: value for name, value in result.to_json().items() if name != "out"},
    }


def versions() -> dict[str, str]:
    """Return the installed versions of what decides a run's numbers."""
    found = {}
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
