"""The distillation loss of a step: models, projections and graph around the pure part of the method."""

from __future__ import annotations

import operator
import random
from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from hrkd_cli.choices import Graph
from hrkd_cli.distillation.collate import DistillBatch, DistillCollate
from hrkd_cli.distillation.graph_trainer import GraphTrainer
from hrkd_cli.distillation.teachers import Comparison
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
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.settings import DistillSettings
from hrkd_cli.training.loop import LossOutput, Objective
from hrkd_cli.training.optimizer import Optimizer
from hrkd_cli.training.rows import LabelGather, Rows, hold_back, local_rows

HELD_ROWS = 16  # of each domain, in an update of the graph


class DistillObjective(Objective):
    """Runs the student on a step's rows and compares it with its teachers (sections 3.1 to 3.4 of the paper).

    Args:
        collate: makes the batches.
        student: the student's classifier.
        heads: the student's outputs.
        settings: resolved settings (see DistillSettings.resolve).
        comparison: see Comparison.
    """

    def __init__(
        self,
        collate: DistillCollate,
        student: Any,
        heads: DomainHeads,
        settings: DistillSettings,
        comparison: Comparison,
    ) -> None:
        self.collate: DistillCollate = collate
        self.heads = heads
        self.settings = settings
        self.comparison = comparison
        self.precision, self.processes = collate.context.precision, collate.context.processes
        self.device = collate.context.device
        self.weights = {loss.name: weight for loss, weight in comparison.losses.items()}
        self.domains = len(heads.domains)
        counts = [len(labels) for labels in heads.labels.values()]
        self.mean_classes = sum(counts) / self.domains
        self.columns = LabelGather(heads, self.device)
        class_weights = collate.rows.class_weights(heads, settings.class_weights)
        self.class_weights = None if class_weights is None else class_weights.to(self.device)  # (D, C)
        layers = student.config.num_hidden_layers if comparison.layers else 0
        self.student = FeatureCapture(
            student, range(1, layers + 1), attention=comparison.needs(Requirement.QUERIES_KEYS)
        )
        self.projections: Projections | None = None
        self.graph: DomainGraph | LearnedGraph | None = None
        self.graph_trainer: GraphTrainer | None = None
        torch.manual_seed(settings.seed)
        self.modules = [student]
        if layers:
            own, width = student.config.hidden_size, comparison.width
            # The released start is kept with the released means, for those who reproduce the paper.
            near = own == width and comparison.pad_to is None
            self.projections = Projections(own, width, layers, near_identity=near).to(self.device)
            self.modules.append(self.projections)
            self._make_graph(student, (width, layers, self.domains))

    def _make_graph(self, student: nn.Module, shape: tuple[int, int, int]) -> None:
        settings = self.settings
        if settings.graph is Graph.FROZEN:
            # As released: random, never trained, its dropout on.
            self.graph = graph = DomainGraph(*shape, hierarchy=bool(settings.hierarchy)).requires_grad_(False).train()
            graph.to(self.device).generator = torch.Generator(self.device)
        elif settings.graph is Graph.LEARNED:
            seed = f"{settings.seed}/held back"
            labels = self.collate.rows.labels.items()
            self.held_back = {d: hold_back(own, settings.held_back, f"{seed}/{d}") for d, own in labels}
            self.graph = learned = LearnedGraph(*shape, hierarchy=bool(settings.hierarchy)).to(self.device)
            self.graph_trainer = GraphTrainer(
                learned,
                student,
                self.weights,
                learning_rate=settings.graph_learning_rate,
                seed=settings.seed,
                processes=self.processes,
            )
            self.parts = self.graph_trainer.parts

    def on_step_start(self, number: int, batch: Sequence[DistillBatch], optimizer: Optimizer) -> None:
        """Seed a frozen graph's dropout, alike in all processes; train a learned graph where it is its turn."""
        if isinstance(self.graph, DomainGraph) and self.graph.generator is not None:
            self.graph.generator.manual_seed(self.settings.seed + number)
        if self.graph_trainer is None or number % self.settings.graph_every:
            return
        # Dropout would only add noise to the held-back loss; the step's losses keep theirs (see GraphTrainer).
        with self.precision.no_autocast():
            self.student.model.eval()
            with self.precision.fast_kernels():
                held = self._held_back_loss(number)
            self.student.model.train()
            self.graph_trainer.update(number, held, lambda: self.domain_losses(batch), optimizer)

    def _held_back_loss(self, number: int) -> Tensor:
        """Return this process's part of the mean label loss over domains, on rows drawn by the step's number alone."""
        draw = random.Random(f"{self.settings.seed}/held/{number}")
        rows: Rows = {d: draw.sample(list(own), min(HELD_ROWS, len(own))) for d, own in self.held_back.items() if own}
        refs = local_rows(rows, self.processes)
        if not refs:
            return torch.zeros((), device=self.device, requires_grad=True)
        batch = self.collate.batch(rows, refs, teacher=False)
        logits = self.columns.take(self.student.model(**batch.tokens.inputs).logits, batch.domains)
        return label_cross_entropy(
            logits, batch.labels, batch.weights.domain_one_hot, self._class_weights(batch)
        ).mean()

    def loss(self, batch: Sequence[DistillBatch]) -> LossOutput:
        """Run one step's rows."""
        found = self.domain_losses(batch)
        with self.precision.no_autocast():
            ratios, layer_ratios = self._ratios(found)
            by_kind = weighted_terms(found.losses, ratios, self.weights)
            total = reduce(operator.add, by_kind.values())
        return LossOutput(total, by_kind, ratios if self.graph is not None else None, layer_ratios)

    def domain_losses(self, batch: Sequence[DistillBatch]) -> DomainLosses:
        """Run one step's rows; return the losses of all domains, of all processes together."""
        own = reduce(operator.add, map(self._bucket_losses, batch))
        with self.precision.no_autocast():
            losses = {name: self.processes.all_reduce(loss) for name, loss in own.losses.items()}
            prototypes = None if own.prototypes is None else self.processes.all_reduce(own.prototypes)
        return DomainLosses(losses, prototypes)

    def _bucket_losses(self, batch: DistillBatch) -> DomainLosses:
        teacher = None if batch.teacher is None else batch.teacher()
        seen = self.student(batch.tokens)
        projected = seen.hidden if self.projections is None or seen.hidden is None else self.projections(seen.hidden)
        given = LossInputs(
            teacher,
            Outputs(projected, seen.queries, seen.keys, self.columns.take(seen.logits, batch.domains)),
            batch.weights,
            batch.labels,
            temperature=self.settings.temperature,
            mean_classes=self.mean_classes,
            class_weights=self._class_weights(batch),
        )
        with self.precision.no_autocast():
            losses = {loss.name: loss.compute(given) for loss in self.comparison.losses}
            if self.graph is None or self.projections is None or seen.hidden is None:
                return DomainLosses(losses)
            return DomainLosses(losses, self.projections.prototypes(seen.hidden, batch.weights))

    def _ratios(self, found: DomainLosses) -> tuple[Tensor | None, tuple[Tensor, ...]]:
        """Return domain ratios, (L+1, D) or (1, D) where they are alike in all layers, and layer ratios."""
        if self.settings.graph is Graph.NONE:
            return None, ()
        if self.graph is None or found.prototypes is None:
            return torch.full((1, self.domains), 1 / self.domains, device=self.device), ()
        # A learned graph has its own loss: the student's gradient must neither reach it nor go through it.
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.graph_trainer is None):
            ratios: GraphRatios = self.graph(found.prototypes)
        return ratios.domain, ratios.layer

    def _class_weights(self, batch: DistillBatch) -> Tensor | None:
        return None if self.class_weights is None else self.class_weights[batch.domains]
