"""One training run from first step to best weights: estimate, loop, dev scores, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from hrkd_cli.data.batching import Sampler
from hrkd_cli.evaluation.metrics import DomainScores
from hrkd_cli.events import DevScored, Note, StageStarted
from hrkd_cli.layout import MODEL
from hrkd_cli.outputs import check_space
from hrkd_cli.settings import TrainingSettings
from hrkd_cli.training.best_weights import BestWeights, SavedWeights
from hrkd_cli.training.checkpoint import RandomState
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.graceful_stop import GracefulStop
from hrkd_cli.training.loop import Objective, StepOutput, measure_step, prefetch, train_step
from hrkd_cli.training.metrics_log import MetricsLogger
from hrkd_cli.training.optimizer import Optimizer
from hrkd_cli.training.run_folder import RunFolder
from hrkd_cli.training.scoring import mean_metric, metric_of

CHECKPOINT_SECONDS = 120.0
AGREE_EVERY = 20  # steps between two collective decisions on several GPUs: each waits for all of them


@dataclass(frozen=True, slots=True)
class TrainOutput:
    """What a run leaves behind.

    Attributes:
        steps: optimizer steps done (fewer than planned when patience ran out).
        seconds: wall time, dev scoring included, interruptions left out.
        examples_per_second: examples of all domains per second of training, dev scoring not counted.
        losses: of the last step, by kind.
        best: weights by what they are best for (see BestWeights); none without a dev split.
    """

    steps: int
    seconds: float
    examples_per_second: float
    losses: Mapping[str, float]
    best: Mapping[str, SavedWeights]


@dataclass
class Progress:
    """How far a run is: checkpointed, field by field.

    Attributes:
        seconds: wall time up to ``Trainer.clock``.
        dev_seconds: time of the last dev scoring.
        scored: dev scores so far.
        waited: of these, the last ones without a better average.
    """

    seconds: float = 0.0
    dev_seconds: float = 0.0
    scored: int = 0
    waited: int = 0

    def state_dict(self) -> dict[str, Any]:
        """Return all fields."""
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict()`` returned."""
        self.__dict__.update(state)


class Trainer:
    """Runs the loop and consumes its steps.

    Args:
        stage: name of the stage, for the events.
        model: the model whose weights are kept.
        extra: modules trained along with it and dropped afterwards.
        objective: computes the loss.
        make_sampler: gives the rows of each batch, from the first on.
        score_dev: scores ``model`` on the dev split; None where there is none: the last weights stay in ``model``.
        dev_rows: rows of that split.
        best_by_domain: keep each domain's best weights too.
    """

    def __init__(
        self,
        *,
        stage: str,
        model: nn.Module,
        extra: Sequence[nn.Module] = (),
        objective: Objective,
        make_sampler: Callable[[], Sampler],
        score_dev: Callable[[], dict[str, DomainScores]] | None = None,
        dev_rows: int = 0,
        best_by_domain: bool = False,
        settings: TrainingSettings,
        run: RunFolder,
        context: TrainContext,
    ) -> None:
        self.stage = stage
        self.model = model
        self.modules = [model, *extra]
        self.objective = objective
        self.make_sampler = make_sampler
        self.score_dev = score_dev
        self.dev_rows = dev_rows
        self.settings = settings
        self.run_folder = run
        self.context = context
        self.steps_per_epoch = make_sampler().steps_per_epoch / settings.accumulate
        self.steps = max(1, math.ceil(self.steps_per_epoch * settings.epochs))
        self.eval_every = settings.eval_every or max(1, round(self.steps_per_epoch / 2))
        self.progress = Progress()
        main, on_cpu = context.processes.is_main, context.device.type == "cpu"
        self.best = BestWeights(run.work, model, settings.metric, by_domain=best_by_domain, writes=main)
        file = run.work / MODEL.metrics if main else None
        self.metrics = MetricsLogger(
            file, stage=stage, steps_per_epoch=self.steps_per_epoch, on_event=context.on_event, eager=on_cpu
        )
        self.optimizer = Optimizer(
            self.modules, settings, self.steps, arithmetic=context.precision, processes=context.processes
        )
        self.agree_every = 1 if on_cpu or context.processes.size == 1 else AGREE_EVERY
        self.step_seconds = 0.0
        self._register()

    def _register(self) -> None:
        """Name everything that a checkpoint holds."""
        checkpoint = self.run_folder.checkpoint
        for number, module in enumerate(self.modules):
            checkpoint.register(f"module.{number}", module)
        checkpoint.register("optimizer", self.optimizer)
        checkpoint.register("objective", self.objective)
        checkpoint.register("best", self.best)
        checkpoint.register("metrics", self.metrics)
        checkpoint.register("progress", self.progress)
        checkpoint.register("random", RandomState(self.context.processes, self.context.device))
        if self.context.precision.scaler is not None:
            checkpoint.register("scaler", self.context.precision.scaler)

    def run(self, domains: Sequence[str]) -> TrainOutput:
        """Train to the end.

        Raises:
            TrainingError: the loss is not a number.
            OutputError: the disk cannot hold the run.
            KeyboardInterrupt: Ctrl-C; there is a checkpoint.
        """
        for module in self.modules:
            module.train()
        self._estimate_cost(domains)
        # Dropout: processes have other rows, and draw other masks.
        torch.manual_seed(self.settings.seed + self.context.processes.rank)
        done = self.run_folder.checkpoint.step
        self.run_folder.checkpoint.restore()
        if done:
            self.context.on_event(Note(f"going on after step {done} of {self.steps}"))
        self.saved, self.saved_at = done, time.monotonic()
        self.clock = time.perf_counter()
        sampler = self.make_sampler()
        sampler.skip(done * self.settings.accumulate)
        batches = prefetch(iter(sampler), self.objective.collate, ahead=self.context.device.type == "cuda")
        self.metrics.open()
        over = False
        how = (self.objective, batches, self.optimizer, self.context.precision)
        try:
            with GracefulStop() as stop:
                while done < self.steps and not over:
                    done += 1
                    step = train_step(*how, number=done, steps=self.steps, accumulate=self.settings.accumulate)
                    over = self._consume(step, stop)
        finally:
            batches.close()  # type: ignore[attr-defined]
        rate = self.metrics.examples / max(1e-9, self.metrics.seconds)
        return TrainOutput(done, self._seconds(), rate, self.metrics.losses, self.best.best)

    def _consume(self, step: StepOutput, stop: GracefulStop) -> bool:
        """Record a step, score, save; tell whether the run is over before its last step."""
        self.metrics.add(step, self._seconds_left(step.number))
        last = step.number == self.steps
        if self.score_dev is not None and (step.number % self.eval_every == 0 or last):
            self._score(step.number, self.score_dev)
            patience, waited = self.settings.patience, self.progress.waited
            if patience is not None and waited >= patience and not last:
                text = f"stopped at step {step.number}: no better average in {waited} dev scores"
                self.context.on_event(Note(text))
                return True
        if last:
            self.metrics.flush(0.0)
            return False
        stopping = False
        if step.number % self.agree_every == 0:
            stopping = self.context.processes.any(stop.requested is not None)
        if stopping or self._due(step.number):
            self._save(step.number)
        if stopping:
            self.context.on_event(Note(f"stopped after step {step.number}, with a checkpoint; go on with --resume"))
            stop.carry_out()
        return False

    def _due(self, step: int) -> bool:
        """Tell whether a checkpoint is to be written after this step."""
        if self.settings.checkpoint_every is not None:
            return step % self.settings.checkpoint_every == 0
        if step % self.agree_every:
            return False
        processes = self.context.processes
        return processes.any(processes.is_main and time.monotonic() - self.saved_at >= CHECKPOINT_SECONDS)

    def _save(self, step: int) -> None:
        """Write a checkpoint."""
        if self.saved == step:
            return
        self.metrics.flush(self._seconds_left(step))  # a loss that is not a number must not get in
        self._seconds()
        self.run_folder.checkpoint.save(step)
        self.best.remove_unused()
        self.saved, self.saved_at = step, time.monotonic()
        self.metrics.restart_clock()

    def _score(self, step: int, score_dev: Callable[[], dict[str, DomainScores]]) -> None:
        """Score the dev split and keep the weights if they are best for anything."""
        self.metrics.flush(self._seconds_left(step))
        tick = time.perf_counter()
        scores = score_dev()
        progress = self.progress
        progress.dev_seconds = time.perf_counter() - tick
        is_best = self.best.update(step, scores)
        progress.scored += 1
        progress.waited = 0 if is_best else progress.waited + 1
        self.metrics.scored(step, scores, is_best=is_best)
        metric = self.settings.metric
        by_domain = {domain: metric_of(s, metric) for domain, s in scores.items()}
        self.context.on_event(DevScored(self.stage, step, str(metric), by_domain, mean_metric(scores, metric), is_best))
        self.metrics.restart_clock()

    def _estimate_cost(self, domains: Sequence[str]) -> None:
        """Measure one real batch, leaving weights and random state as they were; check the disk.

        Raises:
            OutputError: the disk cannot hold the run.
        """
        rows = next(self.make_sampler())
        precision, accumulate = self.context.precision, self.settings.accumulate
        self.step_seconds = measure_step(self.objective, rows, self.optimizer, precision) * accumulate
        # A forward pass is about a third of a training step's work; measured once the first dev score is there.
        examples = sum(len(indices) for indices in rows.values()) * accumulate
        self.progress.dev_seconds = self.step_seconds / 3 * self.dev_rows / examples
        size = sum(t.numel() * t.element_size() for t in self.model.state_dict().values())
        # The best weights, those just being written, then the folder itself; two checkpoints (weights and two moments
        # each) and the one that is being written.
        kept = len(domains) + 3 if self.best.by_domain else 3
        disk = size * kept + 9 * sum(p.numel() * p.element_size() for p in self.optimizer.parameters)
        if self.context.processes.is_main:
            check_space(self.run_folder.out, disk)
        left = self.steps - self.run_folder.checkpoint.step
        seconds = left * self.step_seconds + math.ceil(left / self.eval_every) * self.progress.dev_seconds
        self.context.on_event(StageStarted(self.stage, self.steps, self.settings.epochs, tuple(domains), seconds, disk))

    def _seconds(self) -> float:
        """Advance the wall time of the run to now, and return it."""
        now = time.perf_counter()
        self.progress.seconds += now - self.clock
        self.clock = now
        return self.progress.seconds

    def _seconds_left(self, step: int) -> float:
        evaluations = math.ceil(self.steps / self.eval_every) - self.progress.scored
        per_step = self.metrics.step_seconds or self.step_seconds
        return (self.steps - step) * per_step + evaluations * self.progress.dev_seconds
