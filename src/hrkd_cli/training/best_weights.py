"""The weights worth keeping during a run: the best on average, and on demand the best of each domain."""

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
from hrkd_cli.training.checkpoint import saved_values
from hrkd_cli.training.scoring import mean_metric, metric_of

AVERAGE = ""  # key of the best average step among the best steps of domains (no domain has an empty name)


@dataclass(frozen=True, slots=True)
class SavedWeights:
    """Weights on disk, written when their step was scored.

    Attributes:
        step: their step.
        file: safetensors file with the model's state.
        scores: dev scores by domain.
    """

    step: int
    file: Path
    scores: dict[str, DomainScores]

    def load(self, model: nn.Module) -> None:
        """Load these weights into ``model``."""
        model.load_state_dict(load_file(self.file))


class BestWeights:
    """Compares dev scores and writes the weights that are best for something.

    Args:
        work: the run's folder.
        model: whose weights they are.
        metric: what "best" means.
        by_domain: whether each domain's best weights are kept too.
        writes: whether this process writes the files.

    Attributes:
        best: the best average under ``AVERAGE``, and each domain's best.
    """

    def __init__(self, work: Path, model: nn.Module, metric: Metric, *, by_domain: bool, writes: bool) -> None:
        self.work = work
        self.model = model
        self.metric = metric
        self.by_domain = by_domain
        self.writes = writes
        self.best: dict[str, SavedWeights] = {}

    def update(self, step: int, scores: Mapping[str, DomainScores]) -> bool:
        """Keep the present weights if they are best for anything; tell whether their average is better than before."""
        values = {domain: metric_of(s, self.metric) for domain, s in scores.items()} if self.by_domain else {}
        values[AVERAGE] = mean_metric(scores, self.metric)
        gains = {key: value - self._value(key) for key, value in values.items()}
        # Of equal scores, which are common on small dev splits, the later is kept: it has learned for longer.
        better = {key for key, gain in gains.items() if gain >= 0}
        if better:
            self.best |= dict.fromkeys(better, SavedWeights(step, self._write(step), dict(scores)))
            self.remove_unused()
        return gains[AVERAGE] > 0

    def remove_unused(self) -> None:
        """Remove weights that neither the run nor one of its checkpoints needs any more."""
        if not self.writes:
            return
        used = {saved.file.name for saved in self.best.values()}
        used |= {saved["file"] for best in saved_values(self.work, "best") for saved in best.values()}
        for old in self.work.glob("weights-*.safetensors"):
            if old.name not in used:
                old.unlink()

    def state_dict(self) -> dict[str, Any]:
        """Return what is best so far, as plain values."""
        return {
            key: {
                "step": saved.step,
                "file": saved.file.name,
                "scores": {domain: s.to_json(by_label=True) for domain, s in saved.scores.items()},
            }
            for key, saved in self.best.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict()`` returned."""
        for key, saved in state.items():
            scores = {domain: DomainScores.from_json(s) for domain, s in saved["scores"].items()}
            self.best[key] = SavedWeights(saved["step"], self.work / saved["file"], scores)

    def _write(self, step: int) -> Path:
        """Write the present weights, if this is the process that does."""
        file = self.work / f"weights-{step}.safetensors"
        if self.writes:
            state = self.model.state_dict().items()
            save_file({name: t.detach().cpu().contiguous().clone() for name, t in state}, file)
        return file

    def _value(self, key: str) -> float:
        """Return the best value so far."""
        if key not in self.best:
            return -math.inf
        scores = self.best[key].scores
        return mean_metric(scores, self.metric) if key == AVERAGE else metric_of(scores[key], self.metric)
