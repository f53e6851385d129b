"""Reads the folder of a training run, finished or not: options, steps, dev scores, exported files."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pandas as pd

from hrkd_cli.errors import DataError
from hrkd_cli.json_files import SHAPES, find_mismatch, read_json_or_empty
from hrkd_cli.layout import CHECKPOINT, ModelFiles, OnnxFiles
from hrkd_cli.outputs import absolute_path, checkpoint_folders, metrics_file
from hrkd_cli.settings import DistillSettings, TrainingSettings

Json = dict[str, Any]


class Run:
    """A run of teach or distill, read from its folder.

    Attributes:
        path: the folder as given by the user; ``name`` is its last part.
        run_json: content of ``hrkd.json``; empty for an unfinished run.
        options: resolved options; for an unfinished run, those in its last checkpoint.
        metric: the score that selects the best step: ``accuracy`` or ``macro_f1``.
        data: path of the dataset.
        exported: entries of ``onnx/export.json`` by file name, the fp32 file first; empty without exported files.
        evaluation: content of ``eval.json``, the last result of ``hrkd eval``; empty if there is none.
        written: local time of the last write.
        steps: metrics of each step in ``metrics.jsonl``, indexed by step number; never empty.
        last_step: number of the last step.
        losses: losses by step (index) and name (columns), the total first.
        dev: dev scores in order, each with step, domains and average.
        domains: domain names in the order of the ratios; empty before the first dev score.
        stage: ``teach`` or ``distill``; of an unfinished run, from its options and the names of its losses.
    """

    def __init__(self, path: Path) -> None:
        """Read a folder.

        Raises:
            DataError: the folder is not a run, a line of its metrics is damaged, or there is no step yet.
        """
        metrics = metrics_file(path)
        self.path, self.name = path, path.name or path.resolve().name
        self.run_json = read_json_or_empty(path / ModelFiles.run)
        self.finished = bool(self.run_json)
        given = self.run_json.get("options") or {}
        self.options = {name: entry["value"] for name, entry in given.items()} or _checkpoint_options(path)
        self.metric = str(self.options.get("metric", "accuracy")).replace("-", "_")
        data = (self.run_json.get("data") or {}).get("path")  # relative to the folder
        self.data = absolute_path(data, path).as_posix() if data else ""
        files = read_json_or_empty(path / ModelFiles.onnx / OnnxFiles.export_record).get("files") or {}
        self.exported = dict(sorted(files.items(), key=lambda item: (item[0] != OnnxFiles.fp32, item[0])))
        self.evaluation = read_json_or_empty(path / ModelFiles.evaluation)
        last = path / ModelFiles.run if self.finished else metrics
        self.written = datetime.datetime.fromtimestamp(last.stat().st_mtime).astimezone()
        self.steps, self.dev = _read_metrics(metrics)
        self.last_step = int(self.steps.index[-1])
        self.losses = pd.DataFrame(self.steps["losses"].tolist(), self.steps.index)
        new = [name.strip() for name in str(self.options.get("new_domains") or "").split(",") if name.strip()]
        self.domains = tuple(sorted({*self.dev[-1]["domains"], *new})) if self.dev else ()
        distills = "student" in self.options or not {"total", "label", "domain"} >= {*self.losses}
        self.stage = str(self.run_json.get("stage") or ("distill" if distills else "teach"))

    @property
    def best(self) -> Json | None:
        """Dev score of the best step, with a wide branch if the model has one; None before the first dev score.

        Of an unfinished run, the later step of a tie.
        """
        best = (self.run_json.get("results") or {}).get("best") or {}
        recorded = next((score for score in self.dev if score["step"] == best.get("step")), None)
        if recorded:
            return {**recorded, **(best.get("dev") or {})}
        return max(reversed(self.dev), key=lambda score: score["average"].get(self.metric, 0.0), default=None)

    def changed_options(self) -> Json:
        """Return the options whose values are not the stage's defaults."""
        defaults = TrainingSettings().to_json() if self.stage == "teach" else DistillSettings().resolve().to_json()
        return {name: value for name, value in self.options.items() if name in defaults and defaults[name] != value}

    def layers(self, key: str) -> list[pd.DataFrame]:
        """Return ``ratios`` or ``layer_ratios`` as one table per layer, by step (index) and number (columns)."""
        values = self.steps[key].dropna() if key in self.steps else pd.Series(dtype=object)
        return [pd.DataFrame(rows, values.index) for rows in zip(*values, strict=True)]

    def scores(self, key: str) -> pd.DataFrame:
        """Return a dev score in percent, by step (index) and domain (columns)."""
        rows = [{name: 100 * scores[key] for name, scores in dev["domains"].items()} for dev in self.dev]
        return pd.DataFrame(rows, [dev["step"] for dev in self.dev], dtype=float)


def _read_metrics(file: Path) -> tuple[pd.DataFrame, list[Json]]:
    """Return the steps and the dev scores."""
    steps, dev = [], []
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").rstrip("\n").split("\n")
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror or error})") from None
    for number, text in enumerate(lines, start=1):
        try:
            line = json.loads(text)
            if problem := find_mismatch(line, SHAPES[ModelFiles.metrics]):
                raise ValueError(problem)
            if line.get("dev"):
                dev.append({"step": line["step"], "domains": line["dev"]["domains"], "average": line["dev"]["average"]})
            else:
                steps.append({"step": line["step"], "losses": line["losses"], **line})
        except (ValueError, KeyError, RecursionError):
            if number == len(lines):
                break  # incomplete: the run is still writing, or was killed
            hint = "delete the line, or run the stage again"
            raise DataError(f"{file}:{number}: not a line written by hrkd; {hint}") from None
    if not steps:
        raise DataError(f"{file}: no step recorded yet; try again later")
    return pd.DataFrame(steps).set_index("step"), dev


def _checkpoint_options(work: Path) -> Json:
    """Return the options in the newest checkpoint of an unfinished run; empty without a checkpoint."""
    newest = checkpoint_folders(work)[:1]
    return read_json_or_empty(newest[0] / CHECKPOINT).get("options") or {} if newest else {}
