"""What a run's folder tells: its record, its metrics, its exported files. Also of a run that is not finished."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hrkd_cli.config import DistillSettings, Method, TeachSettings
from hrkd_cli.errors import DataError, HrkdError
from hrkd_cli.layout import CHECKPOINT, MODEL, ONNX, partial
from hrkd_cli.reporting.metrics import TOTAL, DevScore, Metrics, read_metrics

TEACH, DISTILL = "teach", "distill"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True, slots=True)
class Run:
    """A run of teach or distill.

    Attributes:
        path: its folder, as the user named it.
        record: ``hrkd.json``; empty while the run is not finished.
        options: resolved options; of an unfinished run those of its last checkpoint.
        metrics: what it recorded.
        exported: ``onnx/export.json`` by file name; empty where nothing was exported.
        written: when the last of it was written, local time.
    """

    path: Path
    record: Mapping[str, Any]
    options: Mapping[str, Any]
    metrics: Metrics
    exported: Mapping[str, Mapping[str, Any]]
    written: datetime.datetime

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.name or self.path.resolve().name

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return bool(self.record)

    @property
    def stage(self) -> str:
        """``teach`` or ``distill``; of an unfinished run as its losses tell."""
        parts = set(self.metrics.losses) - {TOTAL}
        return str(self.record.get("stage") or (DISTILL if parts else TEACH))

    @property
    def metric(self) -> str:
        """The score that decides which step is best: ``accuracy`` or ``macro_f1``."""
        return str(self.options.get("metric", "accuracy")).replace("-", "_")

    @property
    def best(self) -> DevScore | None:
        """The dev score of the step whose weights are kept; None before the first score.

        Of equal averages the later is kept, so that ``is_best`` (better than before) is not it.
        """
        scores = self.metrics.dev
        kept = ((self.record.get("results") or {}).get("best") or {}).get("step")
        found = next((score for score in scores if score.step == kept), None)
        return found or max(reversed(scores), key=lambda score: score.average.get(self.metric, 0.0), default=None)

    def changed_options(self) -> dict[str, Any]:
        """Return the options whose value is not the default of the stage."""
        usual = _defaults(self.stage, self.options)
        return {name: value for name, value in self.options.items() if name in usual and usual[name] != value}


def read_run(path: Path) -> Run:
    """Read a run's folder.

    Raises:
        DataError: it is no folder of a run, or the run has not done a step yet.
    """
    if not path.is_dir():
        work = partial(path)
        there = f"; a run that is not finished is in {work}: name that folder" if work.is_dir() else ""
        wanted = there or "; name the folder of a run of hrkd teach or hrkd distill"
        raise DataError(f"{path}: {'not a' if path.exists() else 'no such'} folder{wanted}")
    metrics = read_metrics(path)
    record = _object(path / MODEL.run)
    file = path / (MODEL.run if record else MODEL.metrics)
    written = datetime.datetime.fromtimestamp(file.stat().st_mtime).astimezone()
    given = record.get("options") or {}
    options = {name: entry["value"] for name, entry in given.items()} if record else _checkpoint_options(path)
    exported = _object(path / MODEL.onnx / ONNX.record).get("files")
    return Run(path, record, options, metrics, exported if isinstance(exported, dict) else {}, written)


def _checkpoint_options(work: Path) -> dict[str, Any]:
    """Return the options that an unfinished run's newest checkpoint names; none where there is no checkpoint."""
    found = [(int(m[1]), folder) for folder in work.iterdir() if (m := _CHECKPOINT.fullmatch(folder.name))]
    for _, folder in sorted(found, reverse=True):
        options = _object(folder / CHECKPOINT.values).get("options")
        if isinstance(options, dict):
            return options
    return {}


def _defaults(stage: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stage's default options; some of distill's follow from others."""
    if stage != DISTILL:
        return TeachSettings().to_json()
    plain = DistillSettings().resolved().to_json()
    given = {name: options[name] for name in ("method", "hidden_weight") if name in options}
    try:
        usual = DistillSettings(**given).resolved().to_json()
        if usual["method"] == Method.HRKD:  # only there is it possible to choose a graph
            usual["hierarchy"] = DistillSettings(**given, graph=options.get("graph")).resolved().hierarchy
    except HrkdError:  # of another version
        return plain
    return usual | {name: plain[name] for name in given}


def _object(file: Path) -> dict[str, Any]:
    """Read a JSON object; empty where there is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
