"""One training run from first step to kept weights: estimate, loop, dev scores, best weights, metrics."""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from hrkd_cli.config import TrainingSettings
from hrkd_cli.data.batching import Sampler
from hrkd_cli.evaluation.metrics import DomainScores
from hrkd_cli.events import DevScored, Note, OnEvent, StageStarted, StepDone
from hrkd_cli.layout import MODEL
from hrkd_cli.outputs import check_space
from hrkd_cli.train.loop import Step, Task, train
from hrkd_cli.train.optimiser import Optimiser
from hrkd_cli.train.scoring import figure, mean_figure, scores_to_json

RATE_WINDOW = 20  # steps over which examples/s is averaged
AVERAGE = ""  # key of the best average step among the best steps of domains (no domain has an empty name)


@dataclass(frozen=True, slots=True)
class Kept:
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


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run leaves behind.

    Attributes:
        steps: optimiser steps done (fewer than planned when patience ran out).
        seconds: wall time, dev scoring included.
        examples_per_second: examples of all domains a second of training, dev scoring not counted.
        best: the step with the best average.
        best_by_domain: each domain's best step.
    """

    steps: int
    seconds: float
    examples_per_second: float
    best: Kept
    best_by_domain: dict[str, Kept]

    def load_best(self, model: nn.Module) -> None:
        """Put the weights of the best average step into ``model``."""
        self.best.load(model)


class Run:
    """Runs the loop and consumes its steps.

    Args:
        stage: ``"teach"`` or ``"distill"``.
        model: the model whose weights are kept.
        extra: modules trained along with it and dropped afterwards.
        task: computes the loss.
        sampler: gives the rows of each batch.
        score_dev: scores ``model`` on the dev split.
        dev_rows: rows of that split.
        settings: see TrainingSettings.
        work: folder for metrics.jsonl and kept weights.
        out: what it will be called when it is whole.
        on_event: told what happens.
    """

    def __init__(
        self,
        *,
        stage: str,
        model: nn.Module,
        extra: Sequence[nn.Module],
        task: Task,
        sampler: Sampler,
        score_dev: Callable[[], dict[str, DomainScores]],
        dev_rows: int,
        settings: TrainingSettings,
        work: Path,
        out: Path,
        on_event: OnEvent,
    ) -> None:
        self.stage = stage
        self.model = model
        self.task = task
        self.sampler = sampler
        self.score_dev = score_dev
        self.dev_rows = dev_rows
        self.settings = settings
        self.work = work
        self.out = out
        self.on_event = on_event
        self.trained = [model, *extra]
        self.steps_per_epoch = sampler.steps_per_epoch / settings.accumulate
        self.steps = max(1, math.ceil(self.steps_per_epoch * settings.epochs))
        self.eval_every = settings.eval_every or max(1, round(self.steps_per_epoch / 2))
        self.best: dict[str, Kept] = {}
        self.step_seconds = 0.0
        self.dev_seconds = 0.0

    def run(self, domains: Sequence[str]) -> Trained:
        """Train to the end.

        Raises:
            TrainingError: the loss is not a number.
            OutputError: the disk cannot hold the run.
        """
        optimiser = Optimiser(self.trained, self.settings, self.steps)
        self._announce(domains, optimiser)
        torch.manual_seed(self.settings.seed)  # dropout: from here on, whatever was drawn before
        started, training_seconds, examples = time.perf_counter(), 0.0, 0
        window: deque[tuple[float, int]] = deque(maxlen=RATE_WINDOW)
        scored = done = waited = 0
        with (self.work / MODEL.metrics).open("w", encoding="utf-8") as metrics:
            loop = train(
                self.task,
                iter(self.sampler),
                optimiser,
                steps=self.steps,
                accumulate=self.settings.accumulate,
                steps_per_epoch=self.steps_per_epoch,
            )
            self._train_mode(True)
            tick = time.perf_counter()
            for step in loop:
                seconds = time.perf_counter() - tick
                training_seconds, examples, done = training_seconds + seconds, examples + step.examples, step.number
                window.append((seconds, step.examples))
                self.step_seconds = sum(s for s, _ in window) / len(window)
                self._report(step, window, scored, metrics)
                if step.number % self.eval_every == 0 or step.number == self.steps:
                    scored += 1
                    improved = self._score(step.number, metrics)
                    waited = 0 if improved else waited + 1
                    if self.settings.patience is not None and waited >= self.settings.patience:
                        self.on_event(Note(f"stopped at step {done}: no better average in {waited} dev scores"))
                        break
                tick = time.perf_counter()
        by_domain = {domain: kept for domain, kept in self.best.items() if domain != AVERAGE}
        return Trained(done, time.perf_counter() - started, examples / training_seconds, self.best[AVERAGE], by_domain)

    def _announce(self, domains: Sequence[str], optimiser: Optimiser) -> None:
        """Measure one real batch, leaving weights, sampler and random state as they were."""
        start, state = self.sampler.state(), torch.get_rng_state()
        rows = next(self.sampler)
        self.sampler.restore(start)
        self._train_mode(True)
        self.task.loss(rows).total.backward()  # type: ignore[no-untyped-call]  # the first pass only warms up
        tick = time.perf_counter()
        self.task.loss(rows).total.backward()  # type: ignore[no-untyped-call]
        self.step_seconds = (time.perf_counter() - tick) * self.settings.accumulate
        optimiser.clear()
        torch.set_rng_state(state)
        # A forward pass is about a third of a training step's work; measured once the first dev score is there.
        examples = sum(len(indices) for indices in rows.values()) * self.settings.accumulate
        self.dev_seconds = self.step_seconds / 3 * self.dev_rows / examples
        size = sum(t.numel() * t.element_size() for t in self.model.state_dict().values())
        # Each domain's best weights, those of the best average and those just being written, then the folder itself.
        disk = size * (len(domains) + 3) if self.stage == "teach" else size * 3
        check_space(self.out, disk)
        seconds = self.steps * self.step_seconds + math.ceil(self.steps / self.eval_every) * self.dev_seconds
        self.on_event(StageStarted(self.stage, self.steps, self.settings.epochs, tuple(domains), seconds, disk))

    def _train_mode(self, mode: bool) -> None:
        for module in self.trained:
            module.train(mode)

    def _report(self, step: Step, window: deque[tuple[float, int]], scored: int, metrics: Any) -> None:
        evaluations = math.ceil(self.steps / self.eval_every) - scored
        rate = sum(n for _, n in window) / max(1e-9, sum(s for s, _ in window))
        left = (self.steps - step.number) * self.step_seconds + evaluations * self.dev_seconds
        event = StepDone(
            stage=self.stage,
            step=step.number,
            epoch=step.epoch,
            losses=step.losses,
            learning_rate=step.learning_rate,
            examples_per_second=rate,
            seconds_left=left,
            ratios=step.ratios,
            layer_ratios=step.layer_ratios,
        )
        record = {name: value for name, value in asdict(step).items() if name != "examples" and value != ()}
        _append(metrics, {"step": record.pop("number"), **record, "examples_per_second": round(rate, 2)})
        self.on_event(event)

    def _score(self, number: int, metrics: Any) -> bool:
        """Score the dev split, keep the weights if they are best for anything; tell whether the average is better."""
        tick = time.perf_counter()
        scores = self.score_dev()
        self.dev_seconds = time.perf_counter() - tick
        metric = self.settings.metric
        figures = {domain: figure(s, metric) for domain, s in scores.items()} | {AVERAGE: mean_figure(scores, metric)}
        gains = {key: self._gain(key, value) for key, value in figures.items()}
        # Of equal scores, which are common on small dev splits, the later is kept: it has learnt for longer.
        kept = {key for key, gain in gains.items() if gain >= 0}
        if kept:
            self._keep(number, scores, kept)
        is_best = gains[AVERAGE] > 0
        _append(metrics, {"step": number, "dev": scores_to_json(scores), "is_best": is_best})
        by_domain = {domain: value for domain, value in figures.items() if domain != AVERAGE}
        self.on_event(DevScored(self.stage, number, str(metric), by_domain, figures[AVERAGE], is_best))
        return is_best

    def _gain(self, key: str, value: float) -> float:
        """Return by how much a score beats the best so far."""
        if key not in self.best:
            return math.inf
        kept, metric = self.best[key].scores, self.settings.metric
        return value - (mean_figure(kept, metric) if key == AVERAGE else figure(kept[key], metric))

    def _keep(self, number: int, scores: dict[str, DomainScores], better: set[str]) -> None:
        if self.stage == "distill":
            better = better & {AVERAGE}  # one student: only the best average is ever used
            if not better:
                return
        file = self.work / f"weights-{number}.safetensors"
        save_file({name: t.detach().cpu().contiguous().clone() for name, t in self.model.state_dict().items()}, file)
        self.best |= dict.fromkeys(better, Kept(number, file, scores))
        used = {kept.file for kept in self.best.values()}
        for old in self.work.glob("weights-*.safetensors"):
            if old not in used:
                old.unlink()


def _append(metrics: Any, record: dict[str, Any]) -> None:
    metrics.write(json.dumps(record) + "\n")
    metrics.flush()
