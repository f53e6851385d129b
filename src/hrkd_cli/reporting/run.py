"""What a run's folder says: its record, the numbers of its steps, its exported files. Also of an unfinished run."""

from __future__ import annotations

import datetime
import json
import math
import re
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hrkd_cli.errors import DataError
from hrkd_cli.layout import CHECKPOINT, MODEL, ONNX, partial
from hrkd_cli.predict.folder import read_json_or_empty
from hrkd_cli.settings import DistillSettings, TeachSettings

TOTAL = "total"
RATES = ("learning_rate", "gradient_norm", "examples_per_second")
_NAME_IT = "name the folder of a run of hrkd teach or hrkd distill"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


@dataclass(slots=True)
class Series:
    """Values (y) and the steps, or token counts, that they belong to (x)."""

    x: array[float] = field(default_factory=lambda: array("d"))
    y: array[float] = field(default_factory=lambda: array("d"))


@dataclass(frozen=True, slots=True)
class DevScore:
    """Scores after a step, by domain and on average: ``accuracy``, ``macro_f1``, perhaps ``n`` and ``interval``."""

    step: int
    domains: Mapping[str, Mapping[str, Any]]
    average: Mapping[str, Any]


@dataclass(slots=True)
class Run:
    """A run of teach or distill.

    Attributes:
        path: its folder, as the user named it.
        record: ``hrkd.json``; empty while the run is not finished.
        options: resolved options; of an unfinished run those of its last checkpoint.
        exported: ``onnx/export.json`` by file name; empty where nothing was exported.
        written: when the last of it was written, local time.
        steps: number of recorded steps.
        last_step: number of the last one.
        epoch: passes over the data by then.
        losses: by kind, whatever kinds there are.
        rates: those of RATES that were recorded.
        ratios: domain ratios by (student layer, domain), both counted from 0.
        layer_ratios: means over domains by (student layer from 1, layer mixed in from 0).
        dev: dev scores in order.
    """

    path: Path
    record: dict[str, Any]
    options: dict[str, Any]
    exported: dict[str, dict[str, Any]]
    written: datetime.datetime
    steps: int = 0
    last_step: int = 0
    epoch: float = 0.0
    losses: dict[str, Series] = field(default_factory=dict)
    rates: dict[str, Series] = field(default_factory=dict)
    ratios: dict[tuple[int, int], Series] = field(default_factory=dict)
    layer_ratios: dict[tuple[int, int], Series] = field(default_factory=dict)
    dev: list[DevScore] = field(default_factory=list)

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
        """``teach`` or ``distill``; an unfinished run is a distillation if its loss has parts."""
        return str(self.record.get("stage") or ("distill" if set(self.losses) - {TOTAL} else "teach"))

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains, in the order of the ratios; empty before the first dev score."""
        return tuple(self.dev[-1].domains) if self.dev else ()

    @property
    def metric(self) -> str:
        """The score that selects the best step: ``accuracy`` or ``macro_f1``."""
        return str(self.options.get("metric", "accuracy")).replace("-", "_")

    @property
    def best(self) -> DevScore | None:
        """The dev score of the step whose weights are kept, the later of equal averages; None before the first."""
        kept = ((self.record.get("results") or {}).get("best") or {}).get("step")
        found = next((score for score in self.dev if score.step == kept), None)
        return found or max(reversed(self.dev), key=lambda score: score.average.get(self.metric, 0.0), default=None)

    def changed_options(self) -> dict[str, Any]:
        """Return the options whose value is not the default of the stage."""
        usual = TeachSettings().to_json() if self.stage == "teach" else DistillSettings().resolved().to_json()
        return {name: value for name, value in self.options.items() if name in usual and usual[name] != value}

    def add(self, line: Mapping[str, Any]) -> None:
        """Add a line of metrics.jsonl; raises KeyError, TypeError, ValueError or AttributeError if it is not one."""
        step = int(line["step"])
        if "dev" in line:
            self.dev.append(DevScore(step, line["dev"]["domains"], line["dev"]["average"]))
            return
        self.steps, self.last_step, self.epoch = self.steps + 1, step, float(line.get("epoch") or 0.0)
        for kind, value in line["losses"].items():
            _add(self.losses, kind, step, value)
        for kind in RATES:
            _add(self.rates, kind, step, line.get(kind))
        for key, first, into in (("ratios", 0, self.ratios), ("layer_ratios", 1, self.layer_ratios)):
            for layer, row in enumerate(line.get(key) or (), start=first):
                for index, value in enumerate(row):
                    _add(into, (layer, index), step, value)


def read_run(path: Path) -> Run:
    """Read a run's folder.

    Raises:
        DataError: it is no folder of a run, a line of its metrics is damaged, or it has no step yet.
    """
    if not path.is_dir():
        work = partial(path)
        hint = f"; a run that is not finished is in {work}: name that folder" if work.is_dir() else f"; {_NAME_IT}"
        raise DataError(f"{path}: {'not a' if path.exists() else 'no such'} folder{hint}")
    record, metrics = read_json_or_empty(path / MODEL.run), path / MODEL.metrics
    if not metrics.is_file():
        raise DataError(f"{path}: no {MODEL.metrics} in it; {_NAME_IT}")
    given = record.get("options") or {}
    options = {name: entry["value"] for name, entry in given.items()} if record else _checkpoint_options(path)
    exported = read_json_or_empty(path / MODEL.onnx / ONNX.record).get("files")
    written = datetime.datetime.fromtimestamp((path / MODEL.run if record else metrics).stat().st_mtime).astimezone()
    run = Run(path, record, options, exported if isinstance(exported, dict) else {}, written)
    try:
        _read_metrics(run, metrics)
    except OSError as error:
        raise DataError(f"{metrics}: cannot be read ({error.strerror or error})") from None
    return run


def _read_metrics(run: Run, file: Path) -> None:
    """Read all lines; a last one that was cut off is left out: the run is at work, or was killed."""
    damaged = 0
    with file.open(encoding="utf-8", errors="replace") as stream:
        for number, line in enumerate(stream, start=1):
            if damaged:
                hint = "delete the line, or run the stage again"
                raise DataError(f"{file}:{damaged}: not a line that hrkd writes; {hint}")
            try:
                run.add(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError):
                damaged = number
    if not run.steps:
        raise DataError(f"{file}: no step is recorded yet; try again when the run has done some steps")


def _add(into: dict[Any, Series], key: Any, step: int, value: Any) -> None:
    """Add a number to its series; one that is not finite leaves a gap."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        series = into.setdefault(key, Series())
        if math.isfinite(value):
            series.x.append(step)
            series.y.append(value)


def _checkpoint_options(work: Path) -> dict[str, Any]:
    """Return the options that an unfinished run's newest checkpoint names; empty if there is no checkpoint."""
    found = [(int(m[1]), folder) for folder in work.iterdir() if (m := _CHECKPOINT.fullmatch(folder.name))]
    options = read_json_or_empty(max(found)[1] / CHECKPOINT.values).get("options") if found else None
    return options if isinstance(options, dict) else {}
