"""One training run from first step to best weights: estimate, loop, dev scores, checkpoints."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch

from hrkd_cli.data.sampler import DomainBatchSampler
from hrkd_cli.evaluation.metrics import scores_to_json
from hrkd_cli.events import DevScored, Note, StageStarted
from hrkd_cli.layout import ModelFiles
from hrkd_cli.outputs import check_disk_space
from hrkd_cli.settings import TrainingSettings
from hrkd_cli.training.auto_batch_size import batch_size_of
from hrkd_cli.training.best_weights import BestWeights
from hrkd_cli.training.checkpoint import Checkpointer, RandomState
from hrkd_cli.training.dev_scoring import score_split
from hrkd_cli.training.loop import Objective, prefetch, train_step
from hrkd_cli.training.metrics_log import MetricsLogger
from hrkd_cli.training.optimizer import AdamMoments, Optimizer
from hrkd_cli.training.tokenized_split import TokenizedSplit

CHECKPOINT_SECONDS = 120.0
AGREE_EVERY = 20  # steps between two collective decisions on several GPUs: each waits for all of them


@contextlib.contextmanager
def graceful_stop() -> Iterator[list[int]]:
    """Collect SIGINT or SIGTERM in the list that is given; a second signal stops at once."""
    requested: list[int] = []
    before: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, _frame: FrameType | None) -> None:
        requested.append(number)
        restore()

    if threading.current_thread() is threading.main_thread():  # Python handles signals in the main thread only
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requested
    finally:
        restore()


@dataclass(eq=False)
class Trainer:
    """Runs the loop and consumes its steps.

    Attributes:
        stage: name of the stage, for the events.
        objective: computes the loss.
        dev: rows that choose the best weights.
        best_by_domain: keep each domain's best weights too.
        unlabeled_fraction: fraction of unlabeled rows among a domain's rows of a step, where it has some.
        done: optimizer steps done; fewer than ``steps`` when patience ran out.
        seconds: wall time, dev scoring included, interruptions left out.
        best: see BestWeights.
        metrics: see MetricsLogger.
    """

    stage: str
    objective: Objective
    settings: TrainingSettings
    checkpoint: Checkpointer
    dev: TokenizedSplit
    best_by_domain: bool = False
    unlabeled_fraction: float = 0.0

    def __post_init__(self) -> None:
        settings, objective, work = self.settings, self.objective, self.checkpoint.work
        self.context = context = objective.collator.context
        self.model = objective.modules[0]
        self.batch_size = batch_size_of(
            settings, objective, self.checkpoint, unlabeled_fraction=self.unlabeled_fraction
        )
        steps_per_epoch = self.make_sampler().steps_per_epoch / settings.accumulate
        self.steps = max(1, math.ceil(steps_per_epoch * settings.epochs))
        self.eval_every = settings.eval_every or max(1, round(steps_per_epoch / 2))
        main, on_cpu = context.processes.is_main, context.device.type == "cpu"
        metric = settings.metric.replace("-", "_")  # its name in scores
        self.best = BestWeights(work, self.model, metric, by_domain=self.best_by_domain, writes=main)
        self.metrics = MetricsLogger(
            file=work / ModelFiles.metrics if main else None,
            stage=self.stage,
            steps=self.steps,
            steps_per_epoch=steps_per_epoch,
            eval_every=self.eval_every,
            on_event=context.on_event,
            eager=on_cpu,
        )
        self.optimizer = Optimizer(objective.modules, settings, self.steps, context)
        self.agree_every = 1 if on_cpu or context.processes.size == 1 else AGREE_EVERY
        self.done, self.seconds = 0, 0.0
        parts: dict[str, Any] = {f"module.{number}": module for number, module in enumerate(objective.modules)}
        parts |= {"adamw": AdamMoments(self.optimizer.adamw), "best": self.best, "metrics": self.metrics}
        parts |= {"random": RandomState(context.processes, context.device), **objective.parts}
        if context.precision.scaler is not None:
            parts["scaler"] = context.precision.scaler
        self.checkpoint.parts = parts

    def make_sampler(self) -> DomainBatchSampler:
        """Return the rows of each batch, from the first on."""
        rows, settings = self.objective.collator.split, self.settings
        # The released code draws steps as they come and pads them all alike.
        by_length = self.objective.collator.pad_to is None
        return DomainBatchSampler(
            {domain: len(labels) for domain, labels in rows.labels.items()},
            batch_size=self.batch_size,
            sampling=settings.sampling,
            seed=settings.seed,
            lengths={domain: own.tolist() for domain, own in rows.lengths.items()} if by_length else None,
            unlabeled=rows.unlabeled,
            unlabeled_fraction=self.unlabeled_fraction,
            held_back=self.objective.held_back,
        )

    def run(self) -> None:
        """Train to the end.

        Raises:
            TrainingError: the loss is not a number.
            OutputError: the disk cannot hold the run.
            KeyboardInterrupt: Ctrl-C; there is a checkpoint.
        """
        for module in self.objective.modules:
            module.train()
        self._estimate_cost()
        # Dropout: processes have other rows, and draw other masks.
        torch.manual_seed(self.settings.seed + self.context.processes.rank)
        done = self.done = self.optimizer.done = self.checkpoint.step
        self.saved_at, self.metrics.begun = time.monotonic(), time.perf_counter()
        self.checkpoint.restore()
        if done:
            self.context.on_event(Note(f"going on after step {done} of {self.steps}"))
        sampler = self.make_sampler()
        sampler.skip(done * self.settings.accumulate)
        batches = prefetch(iter(sampler), self.objective.collator, ahead=self.context.device.type == "cuda")
        self.metrics.open()
        stopping = False
        with contextlib.closing(batches), graceful_stop() as signals:
            for number in range(done + 1, self.steps + 1):
                step = train_step(
                    self.objective, batches, self.optimizer, number=number, accumulate=self.settings.accumulate
                )
                self.done = number
                self.metrics.add(step)
                if number % self.eval_every == 0 or number == self.steps:
                    self._score(number)
                waited, patience = self.metrics.waited, self.settings.patience
                if patience is not None and waited >= patience and number < self.steps:
                    self.context.on_event(Note(f"stopped at step {number}: no better average in {waited} dev scores"))
                    break
                stopping = number < self.steps and self._checkpoint(number, stop=bool(signals))
                if stopping:
                    break
        if stopping:
            # The run is safe: do what the signal, perhaps that of another process, would have done.
            signal.raise_signal(signals[0] if signals else signal.SIGTERM)
            raise KeyboardInterrupt  # where a handler lets the signal pass, the run stops all the same
        self.metrics.flush()
        self.seconds = time.perf_counter() - self.metrics.begun

    def _checkpoint(self, step: int, *, stop: bool) -> bool:
        """Write a checkpoint where one is due or any process is to stop; tell whether the latter is the case."""
        every, agree = self.settings.checkpoint_every, step % self.agree_every == 0
        late = time.monotonic() - self.saved_at >= CHECKPOINT_SECONDS
        votes = self.context.processes.all_gather((stop, late)) if agree else []
        stopping = any(stop for stop, _ in votes)
        due = any(late for _, late in votes) if every is None else step % every == 0
        if stopping or due:
            self.metrics.flush()  # a loss that is not a number must not get in
            self.checkpoint.save(step)
            self.best.remove_unused()
            self.saved_at = time.monotonic()
            self.metrics.restart_clock()
        if stopping:
            self.context.on_event(Note(f"stopped after step {step}, with a checkpoint; go on with --resume"))
        return stopping

    def _score(self, step: int) -> None:
        """Score the dev split and keep the weights if they are best for anything."""
        self.metrics.flush()
        tick = time.perf_counter()
        scores = score_split(self.model, self.dev, self.objective.heads, self.context)
        seconds = time.perf_counter() - tick
        found, metric = scores_to_json(scores), self.best.metric
        is_best = self.best.update(step, found)
        self.metrics.add_dev(step, found, is_best=is_best, seconds=seconds)
        by_domain = {domain: own[metric] for domain, own in found["domains"].items()}
        average, name = found["average"][metric], str(self.settings.metric)
        self.context.on_event(DevScored(self.stage, step, name, by_domain, average, is_best))
        self.metrics.restart_clock()

    def _estimate_cost(self) -> None:
        """Measure one real batch, leaving the weights as they were; check the disk.

        Raises:
            OutputError: the disk cannot hold the run.
        """
        rows, accumulate = next(self.make_sampler()), self.settings.accumulate
        for _ in range(2):  # the first pass only warms up
            tick = time.perf_counter()
            self.objective.dry_run(rows)
            seconds = (time.perf_counter() - tick) * accumulate
        # A forward pass is about a third of a training step's work; measured once the first dev score is there.
        examples = sum(len(indices) for indices in rows.values()) * accumulate
        self.metrics.dev_seconds = seconds / 3 * self.dev.count / examples
        domains = self.objective.heads.domains
        size = sum(t.numel() * t.element_size() for t in self.model.state_dict().values())
        # The best weights, those just being written, then the folder itself; two checkpoints (weights and two moments
        # each) and the one that is being written.
        kept = len(domains) + 3 if self.best_by_domain else 3
        disk = size * kept + 9 * sum(p.numel() * p.element_size() for p in self.optimizer.parameters)
        if self.context.processes.is_main:
            check_disk_space(self.checkpoint.out, disk)
        left = self.steps - self.checkpoint.step
        seconds = left * seconds + math.ceil(left / self.eval_every) * self.metrics.dev_seconds
        self.context.on_event(StageStarted(self.stage, self.steps, self.settings.epochs, domains, seconds, disk))
