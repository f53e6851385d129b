"""One training run from first step to kept weights: estimate, loop, dev scores, best weights, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hrkd_cli.data.batching import Sampler
from hrkd_cli.errors import TrainingError
from hrkd_cli.evaluation.metrics import DomainScores
from hrkd_cli.events import DevScored, Note, OnEvent, StageStarted, ignore
from hrkd_cli.layout import MODEL
from hrkd_cli.models.precision import Arithmetic
from hrkd_cli.outputs import check_space
from hrkd_cli.settings import TrainingSettings
from hrkd_cli.training.best_weights import AVERAGE, BestWeights, SavedWeights
from hrkd_cli.training.checkpoint import Checkpoint
from hrkd_cli.training.graceful_stop import GracefulStop
from hrkd_cli.training.loop import Objective, StepOutput, prefetch, train
from hrkd_cli.training.metrics_log import MetricsLogger
from hrkd_cli.training.optimizer import Optimizer
from hrkd_cli.training.process_group import SINGLE_PROCESS, ProcessGroup
from hrkd_cli.training.scoring import figure, mean_figure

CHECKPOINT_SECONDS = 120.0
AGREE_EVERY = 20  # steps between two questions to the other GPUs: each waits for all of them


@dataclass(frozen=True, slots=True)
class TrainOutput:
    """What a run leaves behind.

    Attributes:
        steps: optimizer steps done (fewer than planned when patience ran out).
        seconds: wall time, dev scoring included, interruptions left out.
        examples_per_second: examples of all domains a second of training, dev scoring not counted.
        best: the step with the best average.
        best_by_domain: each domain's best step.
    """

    steps: int
    seconds: float
    examples_per_second: float
    best: SavedWeights
    best_by_domain: dict[str, SavedWeights]

    def load_best(self, model: nn.Module) -> None:
        """Put the weights of the best average step into ``model``."""
        self.best.load(model)


@dataclass(frozen=True, slots=True)
class RunContext:
    """Where and with whom a run works.

    Attributes:
        work: folder for metrics.jsonl, kept weights and checkpoints.
        out: what it will be called when it is whole.
        arithmetic: precision and device.
        processes: the processes that share it.
        checkpoint: where it goes on; None starts at the first step.
        values: more plain values for its checkpoints (what was decided before the run).
    """

    work: Path
    out: Path
    arithmetic: Arithmetic
    processes: ProcessGroup = SINGLE_PROCESS
    checkpoint: Checkpoint | None = None
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def decided(self) -> Mapping[str, Any]:
        """What was decided before the run was cut off; nothing for one that starts."""
        return {} if self.checkpoint is None else self.checkpoint.values

    def remembering(self, **values: Any) -> RunContext:
        """Return the place with more values for its checkpoints."""
        return replace(self, values={**self.values, **values})


class Trainer:
    """Runs the loop and consumes its steps.

    Args:
        stage: ``"teach"``, ``"general"`` or ``"distill"``.
        model: the model whose weights are kept.
        extra: modules trained along with it and dropped afterwards.
        objective: computes the loss.
        make_sampler: gives the rows of each batch, from the first on.
        score_dev: scores ``model`` on the dev split; None where there is none: the last weights are kept.
        dev_rows: rows of that split.
        settings: see TrainingSettings.
        place: see RunContext.
        on_event: told what happens.
    """

    def __init__(
        self,
        *,
        stage: str,
        model: nn.Module,
        extra: Sequence[nn.Module],
        objective: Objective,
        make_sampler: Callable[[], Sampler],
        score_dev: Callable[[], dict[str, DomainScores]] | None,
        dev_rows: int,
        settings: TrainingSettings,
        place: RunContext,
        on_event: OnEvent,
    ) -> None:
        self.stage = stage
        self.model = model
        self.objective = objective
        self.make_sampler = make_sampler
        self.score_dev = score_dev
        self.dev_rows = dev_rows
        self.settings = settings
        self.place = place
        self.processes, self.arithmetic = place.processes, place.arithmetic
        self.device = place.arithmetic.device
        self.on_event = on_event if self.processes.is_main else ignore
        self.trained = [model, *extra]
        self.steps_per_epoch = make_sampler().steps_per_epoch / settings.accumulate
        self.steps = max(1, math.ceil(self.steps_per_epoch * settings.epochs))
        self.eval_every = settings.eval_every or max(1, round(self.steps_per_epoch / 2))
        main, by_domain = self.processes.is_main, stage == "teach"  # of a student only the best average is ever used
        self.keeper = BestWeights(place.work, model, settings.metric, by_domain=by_domain, writes=main)
        file = place.work / MODEL.metrics if main else None
        on_cpu = self.device.type == "cpu"
        self.record = MetricsLogger(file, stage=stage, on_event=self.on_event, eager=on_cpu)
        self.agree_every = 1 if on_cpu or self.processes.size == 1 else AGREE_EVERY
        self.optimizer = Optimizer(
            self.trained, settings, self.steps, arithmetic=self.arithmetic, processes=self.processes
        )
        self.step_seconds = 0.0
        self.dev_seconds = 0.0
        self.scored = 0
        self.waited = 0
        self.earlier = 0.0  # seconds of this run before it was interrupted

    def run(self, domains: Sequence[str]) -> TrainOutput:
        """Train to the end.

        Raises:
            TrainingError: the loss is not a number, or the checkpoint is of another run.
            OutputError: the disk cannot hold the run.
            KeyboardInterrupt: Ctrl-C; there is a checkpoint.
        """
        self._announce(domains)
        self._seed()
        done, position = self._restore()
        self.saved, self.saved_at = done, time.monotonic()
        self.started = time.perf_counter()
        sampler = self.make_sampler()
        sampler.skip(done * self.settings.accumulate)
        self._train_mode(True)
        batches = prefetch(iter(sampler), self.objective.collate, ahead=self.device.type == "cuda")
        try:
            with self.record, GracefulStop() as interruption:
                self.record.open(position)
                for step in train(
                    self.objective,
                    batches,
                    self.optimizer,
                    self.arithmetic,
                    first=done + 1,
                    steps=self.steps,
                    accumulate=self.settings.accumulate,
                    steps_per_epoch=self.steps_per_epoch,
                ):
                    done = step.number
                    if self._consume(step, interruption):
                        break
        finally:
            batches.close()  # type: ignore[attr-defined]
        by_domain = {domain: kept for domain, kept in self.keeper.best.items() if domain != AVERAGE}
        rate = self.record.examples / max(1e-9, self.record.seconds)
        return TrainOutput(done, self._seconds(), rate, self.keeper.best[AVERAGE], by_domain)

    def _consume(self, step: StepOutput, interruption: GracefulStop) -> bool:
        """Record a step, score, save; tell whether the run is over before its last step."""
        self.record.add(step, self._seconds_left(step.number))
        last = step.number == self.steps
        if self.score_dev is None:
            if last:
                self.record.flush(0.0)
                self.keeper.keep(step.number)
        elif step.number % self.eval_every == 0 or last:
            self._score(step.number, self.score_dev)
            patience = self.settings.patience
            if patience is not None and self.waited >= patience and not last:
                text = f"stopped at step {step.number}: no better average in {self.waited} dev scores"
                self.on_event(Note(text))
                return True
        if last:
            return False
        stop = False
        if step.number % self.agree_every == 0:
            stop = self.processes.any(interruption.wanted is not None)
        if stop or self._due(step.number):
            self._save(step.number)
        if stop:
            if self.processes.is_main:
                self.on_event(Note(f"stopped after step {step.number}, with a checkpoint; go on with --resume"))
            interruption.carry_out()
        return False

    def _due(self, step: int) -> bool:
        """Tell whether a checkpoint is to be written after this step."""
        if self.settings.checkpoint_every is not None:
            return step % self.settings.checkpoint_every == 0
        if step % self.agree_every:
            return False
        return self.processes.any(self.processes.is_main and time.monotonic() - self.saved_at >= CHECKPOINT_SECONDS)

    def _save(self, step: int) -> None:
        """Write a checkpoint."""
        if self.saved == step:
            return
        self.record.flush(self._seconds_left(step))  # a loss that is not a number must not get in
        states = self.processes.all_gather(torch.get_rng_state())
        tensors = {f"rng.{rank}": state for rank, state in enumerate(states)}
        if self.device.type == "cuda":
            states = self.processes.all_gather(torch.cuda.get_rng_state(self.device))
            tensors |= {f"rng.cuda.{rank}": state for rank, state in enumerate(states)}
        for number, module in enumerate(self.trained):
            tensors |= {f"module.{number}.{name}": t for name, t in module.state_dict().items()}
        tensors |= {f"adamw.{name}": t for name, t in self.optimizer.tensors().items()}
        tensors |= {f"task.{name}": t for name, t in self.objective.state_dict().items()}
        values = {
            "best": self.keeper.state(),
            "scored": self.scored,
            "waited": self.waited,
            "metrics": self.record.position,
            "training_seconds": self.record.seconds,
            "examples": self.record.examples,
            "seconds": self._seconds(),
            "dev_seconds": self.dev_seconds,
            "precision": str(self.arithmetic.precision),
            "scaler": self.arithmetic.state(),
            **self.place.values,
        }
        if self.processes.is_main:
            Checkpoint(step, tensors, values).write(self.place.work)
            self.keeper.sweep()
        self.processes.barrier()
        self.saved, self.saved_at = step, time.monotonic()
        self.record.restart_clock()

    def _restore(self) -> tuple[int, int]:
        """Go to the checkpoint; return the steps done and the bytes of metrics.jsonl that are true.

        Raises:
            TrainingError: it was written in another precision.
        """
        checkpoint = self.place.checkpoint
        if checkpoint is None:
            return 0, 0
        values, tensors = checkpoint.values, checkpoint.tensors
        if values["precision"] != self.arithmetic.precision:
            raise TrainingError(
                f"{self.place.out}: the run was cut off in {values['precision']}, and would go on in "
                f"{self.arithmetic.precision}; give --precision {values['precision']}, or start over with --force"
            )
        for number, module in enumerate(self.trained):
            module.load_state_dict(_under(tensors, f"module.{number}."))
        self.optimizer.restore(_under(tensors, "adamw."), checkpoint.step)
        self.objective.load_state_dict(_under(tensors, "task."))
        self.arithmetic.restore(values["scaler"])
        self.keeper.restore(values["best"])
        self.scored, self.waited = values["scored"], values["waited"]
        self.record.seconds, self.record.examples = values["training_seconds"], values["examples"]
        self.earlier, self.dev_seconds = values["seconds"], values["dev_seconds"]
        rank = self.processes.rank
        if f"rng.{rank}" in tensors:
            torch.set_rng_state(tensors[f"rng.{rank}"])
        if f"rng.cuda.{rank}" in tensors and self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors[f"rng.cuda.{rank}"], self.device)
        self.on_event(Note(f"going on after step {checkpoint.step} of {self.steps}"))
        return checkpoint.step, values["metrics"]

    def _seed(self) -> None:
        # Dropout: from here on, whatever was drawn before; other processes have other rows and draw other masks.
        torch.manual_seed(self.settings.seed + self.processes.rank)

    def _announce(self, domains: Sequence[str]) -> None:
        """Measure one real batch, leaving weights and random state as they were."""
        state = torch.get_rng_state()
        objective_state = {name: t.clone() for name, t in self.objective.state_dict().items()}
        rows = next(self.make_sampler())
        self._train_mode(True)
        for _ in range(2):  # the first pass only warms up
            tick = time.perf_counter()
            batch = self.objective.collate(rows)
            with self.arithmetic.forward():
                loss = self.objective.loss(batch).total
            loss.backward()  # type: ignore[no-untyped-call]
            float(loss.detach())  # a GPU is waited for
            self.step_seconds = (time.perf_counter() - tick) * self.settings.accumulate
            self.optimizer.clear()
        torch.set_rng_state(state)
        self.objective.load_state_dict(objective_state)
        # A forward pass is about a third of a training step's work; measured once the first dev score is there.
        examples = sum(len(indices) for indices in rows.values()) * self.settings.accumulate
        self.dev_seconds = self.step_seconds / 3 * self.dev_rows / examples
        size = sum(t.numel() * t.element_size() for t in self.model.state_dict().values())
        trained = sum(p.numel() * p.element_size() for m in self.trained for p in m.parameters() if p.requires_grad)
        # Each domain's best weights, those of the best average and those just being written, then the folder itself;
        # two checkpoints (weights and two moments each) and the one that is being written.
        disk = size * (len(domains) + 3 if self.stage == "teach" else 3) + 9 * trained
        if self.processes.is_main:
            check_space(self.place.out, disk)
        done = 0 if self.place.checkpoint is None else self.place.checkpoint.step
        left = self.steps - done
        seconds = left * self.step_seconds + math.ceil(left / self.eval_every) * self.dev_seconds
        self.on_event(StageStarted(self.stage, self.steps, self.settings.epochs, tuple(domains), seconds, disk))

    def _train_mode(self, mode: bool) -> None:
        for module in self.trained:
            module.train(mode)

    def _seconds(self) -> float:
        return self.earlier + time.perf_counter() - self.started

    def _seconds_left(self, step: int) -> float:
        evaluations = math.ceil(self.steps / self.eval_every) - self.scored
        return (self.steps - step) * (self.record.step_seconds or self.step_seconds) + evaluations * self.dev_seconds

    def _score(self, step: int, score_dev: Callable[[], dict[str, DomainScores]]) -> None:
        """Score the dev split and keep the weights if they are best for anything."""
        self.record.flush(self._seconds_left(step))
        tick = time.perf_counter()
        scores = score_dev()
        self.dev_seconds = time.perf_counter() - tick
        is_best = self.keeper.judge(step, scores)
        self.scored += 1
        self.waited = 0 if is_best else self.waited + 1
        self.record.scored(step, scores, is_best=is_best)
        metric = self.settings.metric
        by_domain = {domain: figure(s, metric) for domain, s in scores.items()}
        average = mean_figure(scores, metric)
        self.on_event(DevScored(self.stage, step, str(metric), by_domain, average, is_best))
        self.record.restart_clock()


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names start with ``prefix``, without it."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
