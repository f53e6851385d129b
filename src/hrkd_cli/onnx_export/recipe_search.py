"""The search for a quantization recipe that passes the accuracy gate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hrkd_cli.evaluation.latency import FORWARD_SECONDS, LENGTHS
from hrkd_cli.evaluation.scoring import DomainLogits
from hrkd_cli.events import Note, Progress
from hrkd_cli.onnx_export.cpu_targets import WeightFormat
from hrkd_cli.onnx_export.export_result import Trial, accuracies, accuracy_drop
from hrkd_cli.onnx_export.gate import AccuracyGate
from hrkd_cli.onnx_export.graph_editor import OnnxFormat
from hrkd_cli.onnx_export.quantizers import QuantizerInputs
from hrkd_cli.onnx_export.recipes import FILE_NAMES, FORMATS, Recipe, apply_recipe
from hrkd_cli.predict.backend import OnnxBackend


def estimate_seconds(fp32_bytes: int, scoring: float, formats: int, trials: int, timed: int) -> float:
    """Return the duration of an export; ``scoring`` is that of scoring the student, ``timed`` the files to be timed."""
    trial = 1.5 * scoring + 0.04e-6 * fp32_bytes
    latency = 2 * len(LENGTHS) * FORWARD_SECONDS  # two numbers of threads
    return 5 + 0.1e-6 * fp32_bytes + formats * 2.5 * scoring + trials * trial + timed * latency


class RecipeSearch:
    """Makes smaller files from the fp32 file in ``folder``; configuration and tokenizer are in ``root``."""

    def __init__(self, root: Path, folder: Path, gate: AccuracyGate, weight_format: WeightFormat) -> None:
        self.root = root
        self.folder = folder
        self.gate = gate
        self.inputs = QuantizerInputs(weight_format, gate.calibration)
        self._trial_path = folder / "trial.onnx"

    def find(self, onnx_format: OnnxFormat) -> list[Trial]:
        """Try the recipes tier by tier, and leave the most accurate file of the first tier in which one passes.

        Returns:
            All trials; one of them is ``kept``, or none if no recipe passes.
        """
        trials: list[Trial] = []
        target = self.folder / FILE_NAMES[onnx_format]
        for tier in FORMATS[onnx_format].tiers_for(self.inputs.weight_format):
            best: Trial | None = None
            for recipe in tier:
                trial, logits = self._try(onnx_format, recipe)
                trials.append(trial)
                if trial.passed and (best is None or trial.drop < best.drop):
                    best, best_logits = trial, logits
                    self._trial_path.replace(target)
            self._trial_path.unlink(missing_ok=True)
            if best is not None:
                padded_drop = self._padded_drop(onnx_format, target)
                calibration = self.gate.calibrate(best_logits)
                kept = replace(best, kept=True, padded_drop=padded_drop, calibration=calibration)
                return [kept if trial is best else trial for trial in trials]
        return trials

    def _try(self, onnx_format: OnnxFormat, recipe: Recipe) -> tuple[Trial, DomainLogits]:
        gate, path = self.gate, self._trial_path
        gate.on_event(Progress(f"{onnx_format}: {recipe.description}"))
        apply_recipe(self.folder / FILE_NAMES[OnnxFormat.FP32], path, onnx_format, recipe, self.inputs)
        scores, logits = gate.score(OnnxBackend(self.root, path), f"scoring {onnx_format} on dev")
        drop = gate.accuracy_drop(scores)
        gate.on_event(Note(f"{onnx_format}: {recipe.description}: {drop:+.2f} points lost on dev"))
        passed = drop <= gate.settings.max_drop
        size = path.stat().st_size
        return Trial(onnx_format, recipe.description, size, drop, passed, accuracies(scores)), logits

    def _padded_drop(self, onnx_format: OnnxFormat, path: Path) -> float:
        """Return the points lost in batches padded to the maximum length, the worst case on a server."""
        gate = self.gate
        task = f"scoring {onnx_format} on dev in padded batches"
        scores, _ = gate.score(OnnxBackend(self.root, path), task, padded=True)
        drop = accuracy_drop(accuracies(gate.scores), accuracies(scores))
        if drop > gate.settings.max_drop:
            text = f"{onnx_format} loses {drop:.2f} points in padded batches of dev texts; run it one text at a time"
            gate.on_event(Note(text, warning=True))
        return drop
