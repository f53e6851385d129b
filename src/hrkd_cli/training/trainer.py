"""Trainer: runs the training loop with dev scoring, best weights, checkpoints and early stopping."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
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
from hrkd_cli.events import DevScored, Note, Progress, StageStarted
from hrkd_cli.layout import ModelFiles
from hrkd_cli.machine import system_load, usable_cpus
from hrkd_cli.outputs import check_disk_space
from hrkd_cli.settings import TrainingSettings
from hrkd_cli.training.auto_batch_size import resolve_batch_size
from hrkd_cli.training.best_weights import AVERAGE, BestWeights
from hrkd_cli.training.checkpoint import Checkpointer, RandomState
from hrkd_cli.training.collator import StepRows
from hrkd_cli.training.dev_scoring import score_split
from hrkd_cli.training.loop import Objective, prefetch, train_step
from hrkd_cli.training.metrics_log import MetricsLogger
from hrkd_cli.training.optimizer import AdamMoments, Optimizer
from hrkd_cli.training.plan import TrainingPlan
from hrkd_cli.training.tokenized_split import TokenizedSplit

CHECKPOINT_SECONDS = 120.0  # between two checkpoints, without --checkpoint-every
MAX_EVALS = 20  # dev evaluations of a run, unless --eval-every is given
MULTI_GPU_SYNC_STEPS = 20  # steps between collective decisions of several GPUs; each makes all of them wait


@contextlib.contextmanager
def graceful_stop() -> Iterator[list[int]]:
    """Yield a list to which SIGINT or SIGTERM is added; a second signal has its usual effect."""
    received: list[int] = []
    previous_handlers: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)

    def handle(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        restore()

    if threading.current_thread() is threading.main_thread():  # Python handles signals in the main thread only
        previous_handlers = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        restore()


@dataclass(eq=False)
class Trainer:
    """Trains the modules of an objective.

    Attributes:
        stage: name of the stage, for events.
        dev: the split that decides which weights are best.
        best_by_domain: also save the best weights of each domain.
        unlabeled_fraction: unlabeled fraction of a domain's rows per step, if the domain has unlabeled rows.
        step: number of the last optimizer step; less than ``steps`` after early stopping.
        seconds: wall time with dev scoring, but without interruptions.
    """

    stage: str
    objective: Objective
    settings: TrainingSettings
    plan: TrainingPlan
    checkpointer: Checkpointer
    dev: TokenizedSplit
    best_by_domain: bool = False
    unlabeled_fraction: float = 0.0

    def __post_init__(self) -> None:
        settings, objective, work = self.settings, self.objective, self.checkpointer.work
        self.context = context = objective.collator.context
        self.model = objective.modules[0]
        for module in objective.modules:
            module.train()
        self.batch_size = resolve_batch_size(
            settings, objective, self.checkpointer, unlabeled_fraction=self.unlabeled_fraction
        )
        batches_per_epoch = self.make_sampler().batches_per_epoch
        steps_per_epoch = batches_per_epoch / settings.accumulate
        self.steps = -(-batches_per_epoch * self.plan.epochs // settings.accumulate)  # rounded up
        self.eval_every = settings.eval_every or max(1, round(steps_per_epoch / 2), self.steps // MAX_EVALS)
        is_main, on_cpu = context.processes.is_main, context.device.type == "cpu"
        metric = settings.metric.replace("-", "_")  # its name in scores
        self.best_weights = BestWeights(work, self.model, metric, by_domain=self.best_by_domain, writes=is_main)
        self.metrics = MetricsLogger(
            file=work / ModelFiles.metrics if is_main else None,
            stage=self.stage,
            steps=self.steps,
            steps_per_epoch=steps_per_epoch,
            eval_every=self.eval_every,
            on_event=context.on_event,
            eager=on_cpu,
        )
        self.optimizer = Optimizer(
            objective.modules, settings, self.steps, context, learning_rate=self.plan.learning_rate
        )
        self.sync_every = 1 if on_cpu or context.processes.size == 1 else MULTI_GPU_SYNC_STEPS
        self.step, self.seconds = 0, 0.0
        parts: dict[str, Any] = {f"module.{index}": module for index, module in enumerate(objective.modules)}
        parts |= {"adamw": AdamMoments(self.optimizer.adamw), "best": self.best_weights, "metrics": self.metrics}
        parts |= {"random": RandomState(context.processes, context.device), **objective.parts}
        if context.precision.scaler is not None:
            parts["scaler"] = context.precision.scaler
        self.checkpointer.parts = parts

    def make_sampler(self) -> DomainBatchSampler:
        """Return a sampler of batches that starts at the first one."""
        split, settings = self.objective.collator.split, self.settings
        # The released code does not group rows by length, because it pads all of them alike.
        by_length = self.objective.collator.pad_to is None
        return DomainBatchSampler(
            {domain: len(labels) for domain, labels in split.labels.items()},
            batch_size=self.batch_size,
            seed=settings.seed,
            lengths={domain: own.tolist() for domain, own in split.lengths.items()} if by_length else None,
            unlabeled=split.unlabeled,
            unlabeled_fraction=self.unlabeled_fraction,
            held_back=self.objective.held_back,
        )

    def run(self) -> None:
        """Train to the end, or until there is no improvement (``--patience``).

        Raises:
            TrainingError: a loss or gradient is not finite.
            OutputError: the disk is too small for the run.
            KeyboardInterrupt: Ctrl-C; a checkpoint has been saved.
        """
        self._estimate_cost()
        # Processes have different rows, and so need different dropout masks.
        torch.manual_seed(self.settings.seed + self.context.processes.rank)
        first = self.checkpointer.step
        self.step = self.optimizer.step_count = first
        self.saved_at, self.metrics.started = time.monotonic(), time.perf_counter()
        self.checkpointer.restore()
        if first:
            self.context.on_event(Note(f"resuming after step {first} of {self.steps}"))
        sampler = self.make_sampler()
        sampler.skip(first * self.settings.accumulate)
        batches = prefetch(iter(sampler), self.objective.collator, ahead=self.context.device.type == "cuda")
        self.metrics.open()
        stopping = False
        with contextlib.closing(batches), graceful_stop() as signals:
            for step in range(first + 1, self.steps + 1):
                without_improvement, patience = self.metrics.evals_since_best, self.plan.patience
                if patience is not None and without_improvement >= patience:
                    text = f"stopped early at step {step - 1}: no better average in {without_improvement} dev scores"
                    self.context.on_event(Note(text))
                    break
                output = train_step(
                    self.objective, batches, self.optimizer, number=step, accumulate=self.settings.accumulate
                )
                self.step = step
                self.metrics.add(output)
                if step % self.eval_every == 0 or step == self.steps:
                    self._evaluate(step)
                stopping = step < self.steps and self._maybe_checkpoint(step, stop=bool(signals))
                if stopping:
                    break
            if not stopping and self.context.processes.any(bool(signals)):  # in the last step, or before an early stop
                stopping = True
                self._save_checkpoint(self.step, stopping=stopping)
        if stopping:
            # The checkpoint is saved: now let the signal, perhaps that of another process, have its usual effect.
            signal.raise_signal(signals[0] if signals else signal.SIGTERM)
            raise KeyboardInterrupt  # a handler may have ignored the signal
        self.metrics.flush()
        self.seconds = time.perf_counter() - self.metrics.started

    def _maybe_checkpoint(self, step: int, *, stop: bool) -> bool:
        """Save a checkpoint if one is due or any process is to stop; return whether the run stops."""
        every, synchronize = self.settings.checkpoint_every, step % self.sync_every == 0
        overdue = time.monotonic() - self.saved_at >= CHECKPOINT_SECONDS
        votes = self.context.processes.all_gather((stop, overdue)) if synchronize else []
        stopping = any(stop for stop, _ in votes)
        due = any(overdue for _, overdue in votes) if every is None else step % every == 0
        if stopping or due:
            self._save_checkpoint(step, stopping=stopping)
        return stopping

    def _save_checkpoint(self, step: int, *, stopping: bool) -> None:
        self.metrics.flush()  # raises if a loss is not finite, before it gets into a checkpoint
        self.checkpointer.save(step)
        self.best_weights.remove_unused()
        self.saved_at = time.monotonic()
        self.metrics.restart_clock()
        if stopping:
            self.context.on_event(Note(f"stopped after step {step}, with a checkpoint; continue with --resume"))

    def _evaluate(self, step: int) -> None:
        """Score the dev split, and save the weights if they are the best so far."""
        self.metrics.flush()
        start = time.perf_counter()
        self.objective.before_scoring()
        scores = scores_to_json(score_split(self.model, self.dev, self.objective.heads, self.context))
        seconds = time.perf_counter() - start
        is_best = self.best_weights.update(step, scores)
        is_kept = self.best_weights.best[AVERAGE]["step"] == step
        self.metrics.add_dev(step, scores, is_best=is_best, is_kept=is_kept, seconds=seconds)
        metric, name = self.best_weights.metric, str(self.settings.metric)
        by_domain = {domain: domain_scores[metric] for domain, domain_scores in scores["domains"].items()}
        self.context.on_event(DevScored(self.stage, step, name, by_domain, scores["average"][metric], is_best, is_kept))
        self.context.precision.release_memory()
        self.metrics.restart_clock()

    def _estimate_cost(self) -> None:
        """Emit the estimated time and disk space of the run, by timing a real batch; weights do not change.

        Raises:
            OutputError: the disk is too small for the run.
        """
        self.context.on_event(Progress("timing a training step"))
        rows, accumulate = next(self.make_sampler()), self.settings.accumulate
        self.objective.dry_run(rows)  # warms up
        step_seconds = choose_threads(self, rows) * accumulate
        # A forward pass is about a third of a training step; replaced by measurements after the first dev score.
        examples = sum(len(indices) for indices in rows.values()) * accumulate
        self.metrics.dev_seconds = step_seconds / 3 * self.dev.count / examples
        domains = self.objective.heads.domains
        model_bytes = sum(t.numel() * t.element_size() for t in self.model.state_dict().values())
        # Models: the best weights, those being written, and the output folder. Checkpoints (weights and two moments
        # each): two, and the one being written.
        models = len(domains) + 3 if self.best_by_domain else 3
        disk = model_bytes * models + 9 * sum(p.numel() * p.element_size() for p in self.optimizer.parameters)
        if self.context.processes.is_main:
            check_disk_space(self.checkpointer.out, disk)
        steps_left = self.steps - self.checkpointer.step
        seconds = steps_left * step_seconds + math.ceil(steps_left / self.eval_every) * self.metrics.dev_seconds
        self.context.on_event(
            StageStarted(
                self.stage,
                self.steps,
                self.plan.epochs,
                domains,
                seconds,
                disk,
                rows=self.objective.collator.split.count,
                batch_size=self.batch_size,
                max_length=self.plan.max_length,
                learning_rate=self.plan.learning_rate,
                parameters=sum(p.numel() for p in self.model.parameters() if p.requires_grad),
                out=str(self.checkpointer.out),
                run_id=self.checkpointer.decisions.setdefault("run_id", secrets.token_hex(4)),
                first_step=self.checkpointer.step,
                options=self.settings.to_json(),
            )
        )


def choose_threads(trainer: Trainer, rows: StepRows) -> float:
    """Time a batch, and on a busy CPU also with one thread, which is kept if it is faster; return the seconds.

    Threads wait for each other after every operation, so other programs slow all of them down. Processes wait for each
    other too, so they decide together.
    """
    start = time.perf_counter()
    trainer.objective.dry_run(rows)
    seconds, threads = time.perf_counter() - start, torch.get_num_threads()
    context = trainer.context
    is_open = context.threads is None and "OMP_NUM_THREADS" not in os.environ and not trainer.checkpointer.step
    busy = is_open and threads > 1 and context.device.type == "cpu" and system_load() >= usable_cpus()
    if not context.processes.any(busy):
        return seconds
    torch.set_num_threads(1)
    start = time.perf_counter()
    trainer.objective.dry_run(rows)
    alone = time.perf_counter() - start
    if not busy or alone >= seconds:
        torch.set_num_threads(threads)
        return seconds
    trainer.checkpointer.decisions["threads"] = 1
    text = f"the CPU is busy: one thread is {seconds / alone:.1f} times as fast as {threads} and is used (--threads)"
    context.on_event(Note(text))
    return alone
