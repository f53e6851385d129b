"""Best weights of a run: the best on average and, optionally, the best of each domain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn

from hrkd_cli.training.checkpoint import saved_values, to_host

AVERAGE = ""  # key of the average among domains (no domain has an empty name)


@dataclass(eq=False)
class BestWeights:
    """Saves the weights of a model whenever they have the best dev scores so far.

    Attributes:
        work: working folder of the run.
        model: the trained model.
        metric: metric to compare, ``accuracy`` or ``macro_f1``.
        by_domain: also save the best weights of each domain.
        writes: whether this process writes the files.
        best: ``step`` and ``dev`` scores of the best weights, on average (under AVERAGE) and of each domain.
    """

    work: Path
    model: nn.Module
    metric: str
    by_domain: bool
    writes: bool
    best: dict[str, dict[str, Any]] = field(default_factory=dict)

    def update(self, step: int, dev: dict[str, Any]) -> bool:
        """Save the current weights if a score is the best so far; return whether their average is an improvement.

        ``dev``: dev scores as ``scores_to_json`` returns them.
        """
        scores = self._scores(dev)
        best_scores = {key: self._scores(saved["dev"])[key] for key, saved in self.best.items()}
        # Of equal scores, which are common on small dev splits, the later wins because it has trained for longer.
        best_now = [key for key, score in scores.items() if score >= best_scores.get(key, score)]
        if best_now:
            if self.writes:
                save_file(to_host(self.model.state_dict()), self.work / _file_name(step))
            self.best |= {key: {"step": step, "dev": dev} for key in best_now}
            self.remove_unused()
        return scores[AVERAGE] > best_scores.get(AVERAGE, -1.0)

    def _scores(self, dev: Mapping[str, Any]) -> dict[str, float]:
        scores = {AVERAGE: dev["average"][self.metric]}
        if self.by_domain:
            scores |= {domain: domain_scores[self.metric] for domain, domain_scores in dev["domains"].items()}
        return scores

    def load(self, key: str = AVERAGE) -> None:
        """Load the best weights of a domain, or on average, into the model."""
        self.model.load_state_dict(load_file(self.work / _file_name(self.best[key]["step"])))

    def remove_unused(self) -> None:
        """Remove weights that neither the run nor one of its checkpoints refers to."""
        if not self.writes:
            return
        states = (self.best, *(values["parts"]["best"] for values in saved_values(self.work)))
        used = {_file_name(saved["step"]) for best in states for saved in best.values()}
        for file in self.work.glob("weights-*.safetensors"):
            if file.name not in used:
                file.unlink()

    def state_dict(self) -> dict[str, Any]:
        """Return the steps and scores of the best weights."""
        return dict(self.best)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict()`` returned."""
        self.best = dict(state)


def _file_name(step: int) -> str:
    return f"weights-{step}.safetensors"
