"""What a run's folder says: its record, the numbers of its steps, its exported files. Also of an unfinished run."""

from __future__ import annotations

import datetime
import json
import math
import os.path
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrkd_cli.errors import DataError
from hrkd_cli.layout import CHECKPOINT, MODEL, ONNX, partial
from hrkd_cli.predict.folder import read_json_or_empty
from hrkd_cli.settings import DistillSettings, TeachSettings

Json = dict[str, Any]
Array = NDArray[np.float64]

TOTAL = "total"
_NAME_IT = "name the folder of a run of hrkd teach or hrkd distill"


@dataclass(frozen=True, slots=True)
class Run:
    """A run of teach or distill.

    Attributes:
        path: its folder, as the user named it.
        record: ``hrkd.json``; empty while the run is not finished.
        options: resolved options; of an unfinished run those of its last checkpoint.
        exported: ``onnx/export.json`` by file name, the fp32 file first; empty where nothing was exported.
        written: when the last of it was written, local time.
        steps: the lines of ``metrics.jsonl`` about steps, at least one.
        dev: dev scores in order: step, domains and average.
    """

    path: Path
    record: Json
    options: Json
    exported: dict[str, Json]
    written: datetime.datetime
    steps: list[Json]
    dev: list[Json]

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.name or self.path.resolve().name

    @property
    def data(self) -> str:
        """Where the data is; its path is written relative to the run's folder."""
        path = (self.record.get("data") or {}).get("path")
        return "" if path is None else Path(os.path.normpath(self.path / str(path))).as_posix()

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return bool(self.record)

    @property
    def last_step(self) -> int:
        """Number of the last step."""
        return int(self.steps[-1]["step"])

    @property
    def losses(self) -> list[str]:
        """Kinds of losses that were recorded, the total first."""
        kinds = dict.fromkeys(kind for line in self.steps for kind in line["losses"])
        return sorted(kinds, key=lambda kind: kind != TOTAL)

    @property
    def stage(self) -> str:
        """``teach`` or ``distill``; an unfinished run is a distillation if its loss has parts."""
        return str(self.record.get("stage") or ("distill" if set(self.losses) - {TOTAL} else "teach"))

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains, in the order of the ratios; empty before the first dev score."""
        return tuple(self.dev[-1]["domains"]) if self.dev else ()

    @property
    def metric(self) -> str:
        """The score that selects the best step: ``accuracy`` or ``macro_f1``."""
        return str(self.options.get("metric", "accuracy")).replace("-", "_")

    @property
    def best(self) -> Json | None:
        """The dev score of the step whose weights are kept, the later of equal averages; None before the first."""
        kept = ((self.record.get("results") or {}).get("best") or {}).get("step")
        found = next((score for score in self.dev if score["step"] == kept), None)
        return found or max(reversed(self.dev), key=lambda score: score["average"].get(self.metric, 0.0), default=None)

    def changed_options(self) -> Json:
        """Return the options whose value is not the default of the stage."""
        usual = TeachSettings().to_json() if self.stage == "teach" else DistillSettings().resolved().to_json()
        return {name: value for name, value in self.options.items() if name in usual and usual[name] != value}

    def series(self, name: str, kind: str | None = None) -> tuple[Array, Array]:
        """Return steps and a value of each (of a loss its ``kind``), without those where it is no finite number."""
        found = ((line["step"], line.get(name) if kind is None else line[name].get(kind)) for line in self.steps)
        finite = [(x, y) for x, y in found if isinstance(y, int | float) and math.isfinite(y)]
        x, y = np.array(finite, dtype=float).reshape(-1, 2).T
        return x, y

    def layers(self, key: str) -> list[tuple[Array, Array]]:
        """Return steps and values (steps, N) for each layer of ``ratios`` or ``layer_ratios``."""
        found = [line for line in self.steps if line.get(key)]
        x = np.array([line["step"] for line in found], dtype=float)
        return [(x, np.array([line[key][n] for line in found])) for n in range(len(found[0][key]) if found else 0)]


def read_run(path: Path) -> Run:
    """Read a run's folder; DataError if it is none, a line of its metrics is damaged, or it has no step yet."""
    if not path.is_dir():
        work = partial(path)
        hint = f"; a run that is not finished is in {work}: name that folder" if work.is_dir() else f"; {_NAME_IT}"
        raise DataError(f"{path}: {'not a' if path.exists() else 'no such'} folder{hint}")
    record, metrics = read_json_or_empty(path / MODEL.run), path / MODEL.metrics
    if not metrics.is_file():
        raise DataError(f"{path}: no {MODEL.metrics} in it; {_NAME_IT}")
    given = record.get("options") or {}
    options = {name: entry["value"] for name, entry in given.items()} if record else _checkpoint_options(path)
    files = read_json_or_empty(path / MODEL.onnx / ONNX.record).get("files") or {}
    exported = dict(sorted(files.items(), key=lambda item: (item[0] != ONNX.fp32, item[0])))
    written = datetime.datetime.fromtimestamp((path / MODEL.run if record else metrics).stat().st_mtime).astimezone()
    steps, dev = _read_metrics(metrics)
    return Run(path, record, options, exported, written, steps, dev)


def _read_metrics(file: Path) -> tuple[list[Json], list[Json]]:
    """Return the lines about steps, and the dev scores."""
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
    return steps, dev


def _checkpoint_options(work: Path) -> Json:
    """Return the options that an unfinished run's newest checkpoint names; empty if there is no checkpoint."""
    found = {folder.name.removeprefix("checkpoint-"): folder for folder in work.glob("checkpoint-*")}
    newest = max(filter(str.isdigit, found), key=int, default=None)
    options = read_json_or_empty(found[newest] / CHECKPOINT.values).get("options") if newest else None
    return options if isinstance(options, dict) else {}
