"""What a run's folder says: its record, its steps and dev scores, its exported files. Also of an unfinished run."""

from __future__ import annotations

import datetime
import json
import os.path
from pathlib import Path
from typing import Any

import pandas as pd

from hrkd_cli.errors import DataError
from hrkd_cli.json_files import read_json_or_empty
from hrkd_cli.layout import CHECKPOINT, ModelFiles, OnnxFiles, partial_folder
from hrkd_cli.settings import DistillSettings, TeachSettings

Json = dict[str, Any]

_NAME_IT = "name the folder of a run of hrkd teach or hrkd distill"


class Run:
    """A run of teach or distill, read from its folder.

    Attributes:
        path: the folder, as the user named it; ``name`` is its name.
        record: ``hrkd.json``; empty while the run is not ``finished``.
        options: resolved options; of an unfinished run those of its last checkpoint.
        metric: the score that selects the best step: ``accuracy`` or ``macro_f1``.
        data: where the data is.
        exported: ``onnx/export.json`` by file name, the fp32 file first; empty where nothing was exported.
        written: when the last of it was written, local time.
        steps: what ``metrics.jsonl`` says of each step, by step, at least one; ``last_step`` is the last one's number.
        losses: losses of the steps by kind, the total first.
        dev: dev scores in order: step, domains and average.
        domains: names of the domains, in the order of the ratios; empty before the first dev score.
        stage: ``teach`` or ``distill``; an unfinished run is a distillation if its loss has parts.
    """

    def __init__(self, path: Path) -> None:
        """Read a folder.

        Raises:
            DataError: it is not a run's, a line of its metrics is damaged, or it has no step yet.
        """
        if not path.is_dir():
            work = partial_folder(path)
            hint = f"; a run that is not finished is in {work}: name that folder" if work.is_dir() else f"; {_NAME_IT}"
            raise DataError(f"{path}: {'not a' if path.exists() else 'no such'} folder{hint}")
        metrics = path / ModelFiles.metrics
        if not metrics.is_file():
            raise DataError(f"{path}: no {ModelFiles.metrics} in it; {_NAME_IT}")
        self.path, self.name = path, path.name or path.resolve().name
        self.record = read_json_or_empty(path / ModelFiles.run)
        self.finished = bool(self.record)
        given = self.record.get("options") or {}
        self.options = {name: entry["value"] for name, entry in given.items()} or _checkpoint_options(path)
        self.metric = str(self.options.get("metric", "accuracy")).replace("-", "_")
        data = (self.record.get("data") or {}).get("path")  # relative to the folder
        self.data = Path(os.path.normpath(path / data)).as_posix() if data else ""
        files = read_json_or_empty(path / ModelFiles.onnx / OnnxFiles.export_record).get("files") or {}
        self.exported = dict(sorted(files.items(), key=lambda item: (item[0] != OnnxFiles.fp32, item[0])))
        last = path / ModelFiles.run if self.finished else metrics
        self.written = datetime.datetime.fromtimestamp(last.stat().st_mtime).astimezone()
        self.steps, self.dev = _read_metrics(metrics)
        self.last_step = int(self.steps.index[-1])
        self.losses = pd.DataFrame(self.steps["losses"].tolist(), self.steps.index)
        self.domains = tuple(self.dev[-1]["domains"]) if self.dev else ()
        self.stage = str(self.record.get("stage") or ("distill" if self.losses.shape[1] > 1 else "teach"))

    @property
    def best(self) -> Json | None:
        """The dev score of the step whose weights are kept, the later of equal averages; None before the first."""
        kept = ((self.record.get("results") or {}).get("best") or {}).get("step")
        found = next((score for score in self.dev if score["step"] == kept), None)
        return found or max(reversed(self.dev), key=lambda score: score["average"].get(self.metric, 0.0), default=None)

    def changed_options(self) -> Json:
        """Return the options whose value is not the default of the stage."""
        usual = TeachSettings().to_json() if self.stage == "teach" else DistillSettings().resolve().to_json()
        return {name: value for name, value in self.options.items() if name in usual and usual[name] != value}

    def layers(self, key: str) -> list[pd.DataFrame]:
        """Return ``ratios`` or ``layer_ratios`` of each layer: a table by step, with numbered columns."""
        found = self.steps[key].dropna() if key in self.steps else pd.Series(dtype=object)
        return [pd.DataFrame(rows, found.index) for rows in zip(*found, strict=True)]

    def scores(self, key: str) -> pd.DataFrame:
        """Return a dev score in percent, by step and domain."""
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
            if "dev" in line:
                dev.append({"step": line["step"], "domains": line["dev"]["domains"], "average": line["dev"]["average"]})
            else:
                steps.append({"step": line["step"], "losses": line["losses"], **line})
        except (ValueError, KeyError, TypeError):
            if number == len(lines):
                break  # cut off: the run is at work, or was killed
            hint = "delete the line, or run the stage again"
            raise DataError(f"{file}:{number}: not a line that hrkd writes; {hint}") from None
    if not steps:
        raise DataError(f"{file}: no step is recorded yet; try again when the run has done some steps")
    return pd.DataFrame(steps).set_index("step"), dev


def _checkpoint_options(work: Path) -> Json:
    """Return the options that an unfinished run's newest checkpoint names; empty if there is no checkpoint."""
    found = {folder.name.removeprefix("checkpoint-"): folder for folder in work.glob("checkpoint-*")}
    newest = max(filter(str.isdigit, found), key=int, default=None)
    options = read_json_or_empty(found[newest] / CHECKPOINT).get("options") if newest else None
    return options if isinstance(options, dict) else {}
