"""Reading ``metrics.jsonl``: every number of a run as a series over its steps."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hrkd_cli.errors import DataError
from hrkd_cli.layout import MODEL
from hrkd_cli.reporting.series import Series

TOTAL = "total"
RATES = ("learning_rate", "gradient_norm", "examples_per_second")

Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class DevScore:
    """A line of dev scores.

    Attributes:
        step: after which it was taken.
        domains: ``accuracy``, ``macro_f1``, perhaps ``n`` and ``interval``, by domain.
        average: the same without ``n``.
    """

    step: int
    domains: Mapping[str, Mapping[str, Any]]
    average: Mapping[str, Any]


@dataclass(slots=True)
class Metrics:
    """What a run recorded.

    Attributes:
        steps: step lines.
        last_step: number of the last one.
        epoch: passes over the data by then.
        losses: by kind, whatever kinds there are.
        rates: ``learning_rate`` and others of RATES, those that were recorded.
        ratios: domain ratios by (student layer, domain), both counted from 0.
        layer_ratios: means over domains by (student layer, layer mixed in); layers are counted from 1 and from 0.
        dev: dev scores in order.
    """

    steps: int = 0
    last_step: int = 0
    epoch: float = 0.0
    losses: dict[str, Series] = field(default_factory=dict)
    rates: dict[str, Series] = field(default_factory=dict)
    ratios: dict[Place, Series] = field(default_factory=dict)
    layer_ratios: dict[Place, Series] = field(default_factory=dict)
    dev: list[DevScore] = field(default_factory=list)

    def add(self, record: Mapping[str, Any]) -> None:
        """Take in a line.

        Raises:
            KeyError: it has no step.
            TypeError: a value is of another kind than expected.
            ValueError: likewise.
        """
        step = int(record["step"])
        if "dev" in record:
            found = record["dev"]
            self.dev.append(DevScore(step, found["domains"], found["average"]))
            return
        self.steps, self.last_step = self.steps + 1, step
        self.epoch = float(record.get("epoch") or 0.0)
        for kind, value in record["losses"].items():
            _add(self.losses, kind, step, value)
        for kind in RATES:
            _add(self.rates, kind, step, record.get(kind))
        for first, into in (("ratios", self.ratios), ("layer_ratios", self.layer_ratios)):
            for layer, row in enumerate(record.get(first) or (), start=int(first == "layer_ratios")):
                for index, value in enumerate(row):
                    _add(into, (layer, index), step, value)

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains, in the order of the ratios; empty before the first dev score."""
        return tuple(self.dev[-1].domains) if self.dev else ()


def read_metrics(folder: Path) -> Metrics:
    """Read a run's ``metrics.jsonl``. A last line that was cut off is left out: the run is at work, or was killed.

    Raises:
        DataError: there is no such file, it holds no step, or a line is damaged.
    """
    file = folder / MODEL.metrics
    metrics = Metrics()
    for number, line, last in _lines(file):
        try:
            metrics.add(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError):
            if last:
                break
            raise DataError(
                f"{file}:{number}: not a line that hrkd writes; delete the line, or run the stage again"
            ) from None
    if not metrics.steps:
        raise DataError(f"{file}: no step is recorded yet; try again when the run has done some steps")
    return metrics


def _lines(file: Path) -> Iterator[tuple[int, str, bool]]:
    """Give each line with its number, and whether it is the last; one at a time, since files of long runs are large."""
    try:
        with file.open(encoding="utf-8", errors="replace") as stream:
            before: tuple[int, str] | None = None
            for number, line in enumerate(stream, start=1):
                if before is not None:
                    yield *before, False
                before = (number, line)
            if before is not None:
                yield *before, True
    except FileNotFoundError:
        raise DataError(
            f"{file.parent}: no {MODEL.metrics} in it; name the folder of a run of hrkd teach or hrkd distill"
        ) from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror or error})") from None


def _add(into: dict[Any, Series], key: Any, step: int, value: Any) -> None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        into.setdefault(key, Series()).add(step, float(value))
