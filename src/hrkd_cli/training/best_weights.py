"""The weights worth keeping during a run: the best on average, and on demand the best of each domain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from safetensors.torch import load_file, save_file
from torch import nn

from hrkd_cli.training.checkpoint import host_copies, saved_values

AVERAGE = ""  # key of the best average step among the best steps of domains (no domain has an empty name)


class SavedWeights(TypedDict):
    """Weights on disk, as plain values: their step, file name, score that made them best, and all dev scores."""

    step: int
    file: str
    value: float
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
        values = {domain: own[self.metric] for domain, own in dev["domains"].items()} if self.by_domain else {}
        values[AVERAGE] = dev["average"][self.metric]
        before = self.best.get(AVERAGE)
        file = f"weights-{step}.safetensors"
        better: dict[str, SavedWeights] = {
            key: {"step": step, "file": file, "value": value, "dev": dev}
            for key, value in values.items()
            # Of equal scores, which are common on small dev splits, the later is kept: it has learned for longer.
            if key not in self.best or value >= self.best[key]["value"]
        }
        if better:
            if self.writes:
                save_file(host_copies(self.model.state_dict()), self.work / file)
            self.best |= better
            self.remove_unused()
        return before is None or values[AVERAGE] > before["value"]

    def load(self, key: str = AVERAGE) -> None:
        """Load what is best for a domain, or on average, into the model."""
        self.model.load_state_dict(load_file(self.work / self.best[key]["file"]))

    def remove_unused(self) -> None:
        """Remove weights that neither the run nor one of its checkpoints needs any more."""
        if not self.writes:
            return
        used = {saved["file"] for best in (self.best, *saved_values(self.work, "best")) for saved in best.values()}
        for old in self.work.glob("weights-*.safetensors"):
            if old.name not in used:
                old.unlink()

    def state_dict(self) -> dict[str, Any]:
        """Return what is best so far, as plain values."""
        return dict(self.best)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict()`` returned."""
        self.best = dict(state)
