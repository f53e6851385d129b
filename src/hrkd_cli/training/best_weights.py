"""The weights worth keeping during a run: the best on average, and on demand the best of each domain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from safetensors.torch import load_file, save_file
from torch import nn

from hrkd_cli.training.checkpoint import saved_values, to_host

AVERAGE = ""  # key of the best average step among the best steps of domains (no domain has an empty name)


class SavedWeights(TypedDict):
    """Weights on disk, as plain values: their step, and all dev scores of it."""

    step: int
    dev: dict[str, Any]


@dataclass(eq=False)
class BestWeights:
    """Compares dev scores and writes the weights of a model that are best for something."""

    work: Path  # the run's folder
    model: nn.Module
    metric: str  # what "best" means: accuracy or macro_f1
    by_domain: bool  # whether each domain's best weights are kept too
    writes: bool  # whether this process writes the files
    best: dict[str, SavedWeights] = field(default_factory=dict)  # of the average under AVERAGE, and of each domain

    def update(self, step: int, dev: dict[str, Any]) -> bool:
        """Keep the present weights if they are best for anything; tell whether their average is better than before.

        ``dev``: see scores_to_json.
        """
        values, before = self._values(dev), {key: self._values(saved["dev"])[key] for key, saved in self.best.items()}
        # Of equal scores, which are common on small dev splits, the later is kept: it has learned for longer.
        better = [key for key, value in values.items() if value >= before.get(key, value)]
        if better:
            if self.writes:
                save_file(to_host(self.model.state_dict()), self.work / _file(step))
            self.best |= {key: {"step": step, "dev": dev} for key in better}
            self.remove_unused()
        return values[AVERAGE] > before.get(AVERAGE, -1.0)

    def _values(self, dev: Mapping[str, Any]) -> dict[str, float]:
        by_domain = dev["domains"].items() if self.by_domain else ()
        return {AVERAGE: dev["average"][self.metric], **{domain: own[self.metric] for domain, own in by_domain}}

    def load(self, key: str = AVERAGE) -> None:
        """Load what is best for a domain, or on average, into the model."""
        self.model.load_state_dict(load_file(self.work / _file(self.best[key]["step"])))

    def remove_unused(self) -> None:
        """Remove weights that neither the run nor one of its checkpoints needs any more."""
        if not self.writes:
            return
        kept = (self.best, *saved_values(self.work, "best"))
        used = {_file(saved["step"]) for best in kept for saved in best.values()}
        for old in self.work.glob("weights-*.safetensors"):
            if old.name not in used:
                old.unlink()

    def state_dict(self) -> dict[str, Any]:
        """Return what is best so far, as plain values."""
        return dict(self.best)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict()`` returned."""
        self.best = dict(state)


def _file(step: int) -> str:
    return f"weights-{step}.safetensors"
