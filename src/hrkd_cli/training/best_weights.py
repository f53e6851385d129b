"""The weights worth keeping while a run goes on: the best on average, and for a teacher the best of each domain."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn

from hrkd_cli.choices import Metric
from hrkd_cli.evaluation.metrics import DomainScores
from hrkd_cli.training.checkpoint import referenced
from hrkd_cli.training.scoring import figure, mean_figure

AVERAGE = ""  # key of the best average step among the best steps of domains (no domain has an empty name)


@dataclass(frozen=True, slots=True)
class SavedWeights:
    """Weights worth keeping, written to disk when their step was scored.

    Attributes:
        step: their step.
        file: safetensors file with the model's state.
        scores: dev scores by domain.
    """

    step: int
    file: Path
    scores: dict[str, DomainScores]

    def load(self, model: nn.Module) -> None:
        """Put these weights into ``model``."""
        model.load_state_dict(load_file(self.file))


class BestWeights:
    """Judges dev scores and writes the weights that are best for something.

    Args:
        work: the run's folder.
        model: whose weights they are.
        metric: what "best" means.
        by_domain: whether each domain's best weights are kept too.
        writes: whether this process is the one that writes.
    """

    def __init__(self, work: Path, model: nn.Module, metric: Metric, *, by_domain: bool, writes: bool) -> None:
        self.work = work
        self.model = model
        self.metric = metric
        self.by_domain = by_domain
        self.writes = writes
        self.best: dict[str, SavedWeights] = {}

    def judge(self, step: int, scores: Mapping[str, DomainScores]) -> bool:
        """Keep the present weights if they are best for anything; tell whether their average is better than before."""
        figures = {domain: figure(s, self.metric) for domain, s in scores.items()}
        figures[AVERAGE] = mean_figure(scores, self.metric)
        gains = {key: self._gain(key, value) for key, value in figures.items() if self.by_domain or key == AVERAGE}
        # Of equal scores, which are common on small dev splits, the later is kept: it has learnt for longer.
        better = {key for key, gain in gains.items() if gain >= 0}
        if better:
            self.best |= dict.fromkeys(better, SavedWeights(step, self._write(step), dict(scores)))
            self.sweep()
        return gains[AVERAGE] > 0

    def keep(self, step: int) -> None:
        """Keep the present weights, whatever they are worth: those of a run without dev scores."""
        self.best = {AVERAGE: SavedWeights(step, self._write(step), {})}
        self.sweep()

    def sweep(self) -> None:
        """Remove weights that neither the run nor one of its checkpoints needs any more."""
        if not self.writes:
            return
        used = {kept.file.name for kept in self.best.values()} | referenced(self.work)
        for old in self.work.glob("weights-*.safetensors"):
            if old.name not in used:
                old.unlink()

    def state(self) -> dict[str, Any]:
        """Return what is best so far, as plain values."""
        return {
            key: {
                "step": kept.step,
                "file": kept.file.name,
                "scores": {domain: s.to_json(by_label=True) for domain, s in kept.scores.items()},
            }
            for key, kept in self.best.items()
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state()``."""
        self.best = {
            key: SavedWeights(
                int(kept["step"]),
                self.work / kept["file"],
                {domain: DomainScores.from_json(s) for domain, s in kept["scores"].items()},
            )
            for key, kept in state.items()
        }

    def _write(self, step: int) -> Path:
        """Write the present weights, if this is the process that does."""
        file = self.work / f"weights-{step}.safetensors"
        if self.writes:
            state = self.model.state_dict().items()
            save_file({name: t.detach().cpu().contiguous().clone() for name, t in state}, file)
        return file

    def _gain(self, key: str, value: float) -> float:
        """Return by how much a score beats the best so far."""
        if key not in self.best:
            return math.inf
        kept = self.best[key].scores
        return value - (mean_figure(kept, self.metric) if key == AVERAGE else figure(kept[key], self.metric))
