"""The distillation loss of a step: runs student, projections and domain graph, and computes the losses."""

from __future__ import annotations

import operator
import random
from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from hrkd_cli.choices import Graph
from hrkd_cli.distillation.distill_collator import DistillBatch, DistillCollator
from hrkd_cli.distillation.graph_trainer import GraphTrainer, hold_back
from hrkd_cli.distillation.loss_config import LossConfig
from hrkd_cli.method import (
    DomainGraph,
    DomainLosses,
    GraphRatios,
    LearnedGraph,
    LossInputs,
    Outputs,
    Projections,
    Requirement,
    label_cross_entropy,
    weighted_terms,
)
from hrkd_cli.models.feature_capture import FeatureCapture
from hrkd_cli.models.label_gather import LabelGather
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.settings import DistillSettings
from hrkd_cli.training.collator import StepRows, local_rows
from hrkd_cli.training.loop import LossOutput, Objective
from hrkd_cli.training.optimizer import Optimizer

HELD_BACK_ROWS = 16  # per domain, in one update of a learned graph


class DistillObjective(Objective):
    """Compares the student with its teachers (paper, sections 3.1 to 3.4).

    ``settings`` are resolved ones; ``extended`` is the frozen student that this one extends, with its heads.
    """

    def __init__(
        self,
        collator: DistillCollator,
        student: Any,
        heads: DomainHeads,
        settings: DistillSettings,
        loss_config: LossConfig,
        extended: tuple[Any, DomainHeads] | None = None,
    ) -> None:
        self.collator: DistillCollator = collator
        self.heads = heads
        self.settings = settings
        self.precision, self.processes = collator.context.precision, collator.context.processes
        self.device = collator.context.device
        self.losses = list(loss_config.weights)
        self.loss_weights = {loss.name: weight for loss, weight in loss_config.weights.items()}
        heads = heads.select(collator.domains)  # without those that have no texts
        self.num_domains = len(heads.domains)
        self.domain_posterior = loss_config.requires(Requirement.DOMAINS)
        self.mean_classes = sum(map(len, heads.labels.values())) / self.num_domains
        self.label_gather = LabelGather(heads, self.device)
        self.extended: Any = None
        if extended is not None:
            self.extended, old = extended
            self.old_gathers = [LabelGather(h, self.device) for h in (old, self.heads.select(old.domains))]
        class_weights = collator.split.class_weights(heads, settings.class_weights)
        self.class_weights = None if class_weights is None else class_weights.to(self.device)  # (D, C)
        layers = len(loss_config.matched_layers)
        attention = loss_config.requires(Requirement.QUERIES_KEYS)
        self.student = FeatureCapture(student, range(1, layers + 1), attention=attention)
        self.projections: Projections | None = None
        self.graph: DomainGraph | LearnedGraph | None = None
        self.graph_trainer: GraphTrainer | None = None
        torch.manual_seed(settings.seed)
        self.modules = [student]
        if layers:
            student_width, teacher_width = student.config.hidden_size, loss_config.teacher_width
            # Released means come with the released initialization, to reproduce the paper.
            near_identity = student_width == teacher_width and loss_config.pad_to is None
            projections = Projections(student_width, teacher_width, layers, near_identity=near_identity)
            self.projections = projections.to(self.device)
            self.modules.append(self.projections)
            self._build_graph(student, teacher_width, layers)
        self.is_additive = self.graph is None  # a domain graph compares domains over all rows of a step

    def _build_graph(self, student: nn.Module, width: int, layers: int) -> None:
        settings, hierarchy = self.settings, bool(self.settings.hierarchy)
        if settings.graph is Graph.FROZEN:
            # As in the released code: random, never trained, with dropout on.
            frozen = DomainGraph(width, layers, self.num_domains, hierarchy=hierarchy).requires_grad_(False).train()
            frozen.to(self.device).generator = torch.Generator(self.device)
            self.graph = frozen
        elif settings.graph is Graph.LEARNED:
            self.held_back = {
                domain: hold_back(labels, settings.held_back, f"{settings.seed}/held back/{domain}")
                for domain, labels in self.collator.split.labels.items()
            }
            learned = LearnedGraph(width, layers, self.num_domains, hierarchy=hierarchy).to(self.device)
            self.graph = learned
            encoder: Any = student.base_model
            encoder_weights = [w for name, w in encoder.named_parameters() if not name.startswith("pooler.")]
            self.graph_trainer = GraphTrainer(
                learned,
                [*encoder_weights, *(w for module in self.modules[1:] for w in module.parameters())],
                self.loss_weights,
                learning_rate=settings.graph_learning_rate,
                seed=settings.seed,
                processes=self.processes,
            )
            self.parts = self.graph_trainer.parts

    def on_step_start(self, step: int) -> None:
        """Seed a frozen graph's dropout equally in all processes."""
        if isinstance(self.graph, DomainGraph) and self.graph.generator is not None:
            self.graph.generator.manual_seed(self.settings.seed + step)

    def before_update(self, step: int, batch: Sequence[DistillBatch], optimizer: Optimizer, norm: Tensor) -> None:
        """Update a learned graph every few steps."""
        if self.graph_trainer is None or step % self.settings.graph_every:
            return
        # The held-back loss is computed without dropout, which would only add noise to it. The losses of the batch
        # keep their dropout.
        with self.precision.no_autocast():
            self.student.model.eval()
            with self.precision.fast_kernels():
                held_back_loss = self._held_back_loss(step)
            self.student.model.train()
            self.graph_trainer.update(step, held_back_loss, lambda: self.domain_losses(batch), optimizer, norm)

    def _held_back_loss(self, step: int) -> Tensor:
        """Return this process's part of the label loss on held-back rows, the mean over domains.

        Which rows are drawn depends only on the seed and the step.
        """
        generator = random.Random(f"{self.settings.seed}/held/{step}")
        rows: StepRows = {
            domain: generator.sample(list(candidates), min(HELD_BACK_ROWS, len(candidates)))
            for domain, candidates in self.held_back.items()
            if candidates
        }
        refs = local_rows(rows, self.processes)
        if not refs:
            return torch.zeros((), device=self.device, requires_grad=True)
        batch = self.collator.batch(rows, refs, teacher=False)
        logits = self.label_gather.take(self.student.model(**batch.tokens.inputs).logits, batch.domains)
        class_weights = self._class_weights(batch)
        return label_cross_entropy(logits, batch.labels, batch.weights.domain_one_hot, class_weights).mean()

    def loss(self, batch: Sequence[DistillBatch]) -> LossOutput:
        """Return the loss of one step's rows, given as length buckets."""
        domain_losses = self.domain_losses(batch)
        with self.precision.no_autocast():
            ratios, layer_ratios = self._ratios(domain_losses.prototypes)
            by_kind = weighted_terms(domain_losses.losses, ratios, self.loss_weights)
            total = reduce(operator.add, by_kind.values())
        return LossOutput(total, by_kind, ratios if self.graph is not None else None, layer_ratios)

    def domain_losses(self, batch: Sequence[DistillBatch]) -> DomainLosses:
        """Return the losses of all domains on one step's rows, summed over processes."""
        local = reduce(operator.add, map(self._bucket_losses, batch))
        with self.precision.no_autocast():
            losses = {name: self.processes.all_reduce(loss) for name, loss in local.losses.items()}
            prototypes = None if local.prototypes is None else self.processes.all_reduce(local.prototypes)
        return DomainLosses(losses, prototypes)

    def _bucket_losses(self, bucket: DistillBatch) -> DomainLosses:
        teacher = None if bucket.teacher is None else bucket.teacher()
        student = self.student(bucket.tokens)
        projected = student.hidden
        if student.hidden is not None and self.projections is not None:
            projected = self.projections(student.hidden)
        logits = self.label_gather.take(student.logits, bucket.domains)
        domain_logits = self.label_gather.domain_logits(student.logits) if self.domain_posterior else None
        inputs = LossInputs(
            teacher,
            Outputs(projected, student.queries, student.keys, logits, domain_logits),
            bucket.weights,
            bucket.labels,
            temperature=self.settings.temperature,
            mean_classes=self.mean_classes,
            class_weights=self._class_weights(bucket),
            old_domains=self._old_domains(bucket, student.logits),
        )
        with self.precision.no_autocast():
            losses = {loss.name: loss.compute(inputs) for loss in self.losses}
            if self.graph is None or self.projections is None or student.hidden is None:
                return DomainLosses(losses)
            return DomainLosses(losses, self.projections.prototypes(student.hidden, bucket.weights))

    def _ratios(self, prototypes: Tensor | None) -> tuple[Tensor | None, tuple[Tensor, ...]]:
        """Return domain ratios, (L+1, D), or (1, D) if all layers have the same, and layer ratios."""
        if self.settings.graph is Graph.NONE:
            return None, ()
        if self.graph is None or prototypes is None:
            return torch.full((1, self.num_domains), 1 / self.num_domains, device=self.device), ()
        # A learned graph has its own loss, so the student's gradient must neither reach it nor pass through it.
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.graph_trainer is None):
            ratios: GraphRatios = self.graph(prototypes)
        return ratios.domain, ratios.layer

    def _old_domains(self, bucket: DistillBatch, logits: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the logits of the extended student and of this one for the old domains, each (R, K, C)."""
        if self.extended is None:
            return None
        with torch.no_grad():
            before = self.extended(**bucket.tokens.inputs).logits
        first, second = self.old_gathers
        return first.by_domain(before), second.by_domain(logits)

    def _class_weights(self, batch: DistillBatch) -> Tensor | None:
        return None if self.class_weights is None else self.class_weights[batch.domains]
