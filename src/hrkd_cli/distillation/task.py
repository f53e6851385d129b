"""The distillation loss of one step: models, projections and graph around the method's pure part."""

from __future__ import annotations

import operator
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hrkd_cli.choices import Graph, Means, Method
from hrkd_cli.distillation.relate import GraphTrainer
from hrkd_cli.distillation.teacher_outputs import TeacherOutputs, stacked
from hrkd_cli.method import (
    BatchTerms,
    DomainGraph,
    Labels,
    Projections,
    RelationGraph,
    Shares,
    StudentSignals,
    batch_terms,
    combine,
    label_terms,
)
from hrkd_cli.models.capture import Capture, layer_map
from hrkd_cli.models.encoding import Batch, Encoded, Encoder
from hrkd_cli.models.precision import Arithmetic
from hrkd_cli.models.sizes import Sizes, sizes_of
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.settings import DistillSettings
from hrkd_cli.training.columns import Columns
from hrkd_cli.training.loop import LossOutput, Rows
from hrkd_cli.training.optimizer import Optimizer
from hrkd_cli.training.process_group import SINGLE_PROCESS, ProcessGroup
from hrkd_cli.training.rows import Pick, make_labels, make_shares, picks_of, pieces_of

HELD_ROWS = 16  # of each domain, in an update of the graph


@dataclass(frozen=True, slots=True)
class Comparison:
    """What of teacher and student is compared.

    Attributes:
        layers: matched teacher layers, 1-based, one a student layer; empty for logits only.
        attention: whether attention scores are.
        padded: whether means run over padding too (released code).
    """

    layers: tuple[int, ...]
    attention: bool
    padded: bool

    @classmethod
    def of(cls, settings: DistillSettings, teacher: Any, student: Any) -> Comparison:
        """Work out what the settings ask for, from the models' configurations."""
        compares = settings.compares
        layers = layer_map(sizes_of(teacher).layers, sizes_of(student).layers) if compares else ()
        return cls(layers, compares and settings.attention_weight > 0, settings.means is Means.RELEASED)


@dataclass(frozen=True, slots=True)
class DistillBatch:
    """Rows of a step on the device: the student's inputs, the teachers' part, the shares of the means, the labels."""

    batch: Batch
    teacher: Any
    shares: Shares
    labels: Labels | None = None


class DistillTask:
    """Runs the student on a step's rows and compares it with its teachers (sections 3.1 to 3.4 of the paper).

    Args:
        side: what the teachers show.
        student: the student's classifier.
        heads: the student's outputs.
        settings: resolved settings (see DistillSettings.resolved).
        comparison: see Comparison.
        teacher: configuration of the teacher.
        rows: what is learnt from as the student sees it: (encoder, token ids by domain).
        labels: each domain's right answers, of its first rows; those after them have none.
        held_back: numbers of the rows by domain that a learned graph is judged on.
        instance_weights: of every row by domain, in the means of the losses against the teachers; None for no weights.
        class_weights: (C,) factors by domain, or None.
        arithmetic: precision of the forward pass, and the device.
        processes: the processes that share each step.
    """

    def __init__(
        self,
        side: TeacherOutputs,
        student: Any,
        heads: DomainHeads,
        settings: DistillSettings,
        comparison: Comparison,
        *,
        teacher: Any,
        rows: tuple[Encoder, Mapping[str, Encoded]],
        labels: Mapping[str, np.ndarray] | None = None,
        held_back: Mapping[str, Sequence[int]] | None = None,
        instance_weights: Mapping[str, np.ndarray] | None = None,
        class_weights: Mapping[str, Tensor | None],
        arithmetic: Arithmetic,
        processes: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self.side = side
        self.heads = heads
        self.settings = settings
        self.comparison = comparison
        self.encoder, self.encoded = rows
        self.labels = labels or {}
        self.held_back = held_back or {}
        self.instance_weights = instance_weights
        self.lengths = {domain: encoded.lengths() for domain, encoded in self.encoded.items()}
        self.arithmetic = arithmetic
        self.processes = processes
        device = arithmetic.device
        sizes = [len(labels) for labels in heads.labels.values()]
        self.mean_classes = sum(sizes) / len(sizes)
        self.columns = Columns(heads, heads.domains, device)
        self.class_weights = _weight_table(class_weights, heads, device)
        own = sizes_of(student.config)
        shown = range(1, own.layers + 1) if comparison.layers else ()
        self.student = Capture(student, shown, attention=comparison.attention)
        self.compares = bool(comparison.layers)
        self.projections: Projections | None = None
        self.graph: DomainGraph | RelationGraph | None = None
        self.graph_trainer: GraphTrainer | None = None
        torch.manual_seed(settings.seed)
        if comparison.layers:
            self._set_up_comparison(student, own, sizes_of(teacher).width)

    def _set_up_comparison(self, student: Any, own: Sizes, width: int) -> None:
        """Make projections to the teacher's width, and the graph."""
        settings, device = self.settings, self.arithmetic.device
        # The released start is kept with the released means, for those who reproduce the paper.
        near = own.width == width and not self.comparison.padded
        self.projections = Projections(own.width, width, own.layers, around_identity=near).to(device)
        nodes = (width, own.layers, len(self.heads.domains))
        if settings.graph is Graph.FROZEN:
            graph = DomainGraph(*nodes, hierarchy=bool(settings.hierarchy))
            # As released: random, never trained, its dropout on.
            self.graph = graph.requires_grad_(False).to(device).train()
            graph.generator = torch.Generator(device).manual_seed(settings.seed)
        elif settings.graph is Graph.LEARNED:
            learned = RelationGraph(*nodes, hierarchy=bool(settings.hierarchy))
            self.graph = learned.to(device)
            self.graph_trainer = GraphTrainer(
                learned,
                student,
                attention_weight=settings.attention_weight,
                learning_rate=settings.graph_learning_rate,
                seed=settings.seed,
                processes=self.processes,
            )

    def collate(self, rows: Rows) -> list[DistillBatch]:
        """Get one step's rows ready: this process's part of them, in pieces of similar length."""
        picks = picks_of(rows, self.processes)
        pieces = [picks] if self.comparison.padded else pieces_of(picks, self.lengths, self.arithmetic.device)
        return [self._load(rows, piece) for piece in pieces]

    def _load(self, rows: Rows, picks: Sequence[Pick]) -> DistillBatch:
        device = self.arithmetic.device
        own = [(self.encoded[domain], row) for domain, row in picks]
        # The released code pads everything to the maximum, which its unmasked means can see.
        pad_to = self.encoder.max_length if self.comparison.padded else None
        batch = self.encoder.collate_rows(own, device, pad_to=pad_to)
        shares = make_shares(
            rows,
            picks,
            self.lengths,
            self.heads.domains,
            device,
            pad_to=pad_to,
            weights=self.instance_weights,
        )
        labels = make_labels(rows, picks, self.labels, device) if self.settings.label_weight else None
        return DistillBatch(batch, self.side.load(picks, batch), shares, labels)

    def on_step_start(self, number: int, steps: int, batch: Sequence[DistillBatch], optimizer: Optimizer) -> None:
        """Train a learned graph before step ``number`` where it is its turn."""
        if self.graph_trainer is None or number % self.settings.graph_every:
            return
        self._train_graph(number, self._held_rows(number), batch, optimizer)

    def _train_graph(self, number: int, rows: Rows, batch: Sequence[DistillBatch], optimizer: Optimizer | None) -> None:
        """Train the graph on what held-back rows say of a step; without an optimizer only see what it takes."""
        assert self.graph_trainer is not None
        # Dropout would only add noise to what held-back rows say; the losses keep theirs (see GraphTrainer).
        with self.arithmetic.exact():
            self.student.model.eval()
            with self.arithmetic.kernels():
                held = self._held_back(rows)
            self.student.model.train()
            self.graph_trainer.update(number, lambda: held, lambda: self._compare(batch), optimizer)

    def loss(self, batch: Sequence[DistillBatch]) -> LossOutput:
        """Run one step's rows."""
        terms = self._compare(batch)
        with self.arithmetic.exact():
            return self._total(terms)

    def _compare(self, batch: Sequence[DistillBatch]) -> BatchTerms:
        """Run one step's rows; the losses of all domains and processes."""
        own = reduce(operator.add, map(self._compare_piece, batch))
        with self.arithmetic.exact():
            return self._terms(own)

    def _compare_piece(self, batch: DistillBatch) -> BatchTerms:
        numbers = batch.shares.domains.argmax(dim=0)  # (R,)
        teacher = self.side.signals(batch.teacher, numbers)
        seen = self.student(batch.batch)
        hidden = stacked(seen.hidden)
        projected = hidden if self.projections is None or hidden is None else self.projections(hidden)
        logits = self.columns.take(seen.logits, numbers)
        student = StudentSignals(hidden, projected, stacked(seen.queries), stacked(seen.keys), logits)
        with self.arithmetic.exact():
            return batch_terms(
                teacher,
                student,
                batch.shares,
                self.projections,
                temperature=self.settings.temperature,
                mean_classes=self.mean_classes,
                class_weights=None if self.class_weights is None else self.class_weights[numbers],
                labels=batch.labels,
                prototypes=self.graph is not None,
            )

    def _held_rows(self, number: int) -> Rows:
        """Draw held-back rows for a step: at most a batch of each domain, by the step's number alone."""
        size = HELD_ROWS
        draw = random.Random(f"{self.settings.seed}/held/{number}")
        return {d: draw.sample(list(rows), min(size, len(rows))) for d, rows in self.held_back.items() if rows}

    def _held_back(self, rows: Rows) -> Tensor:
        """Return this process's part of the mean label loss over domains."""
        picks, device = picks_of(rows, self.processes), self.arithmetic.device
        if not picks:
            return sum((p.sum() * 0 for p in self.student.model.parameters()), torch.zeros((), device=device))
        batch = self.encoder.collate_rows([(self.encoded[d], row) for d, row in picks], device)
        shares = make_shares(rows, picks, self.lengths, self.heads.domains, device)
        numbers = shares.domains.argmax(dim=0)
        logits = self.columns.take(self.student.model(**batch.inputs).logits, numbers)
        weights = None if self.class_weights is None else self.class_weights[numbers]
        return label_terms(logits, make_labels(rows, picks, self.labels, device), shares.domains, weights).mean()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the random state of a frozen graph's dropout, or a learned graph with its optimizer."""
        if self.graph_trainer is not None:
            return self.graph_trainer.state_dict()
        if not isinstance(self.graph, DomainGraph) or self.graph.generator is None:
            return {}
        return {"graph.rng": self.graph.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from ``state_dict()``."""
        if self.graph_trainer is not None:
            self.graph_trainer.load_state_dict(state)
        elif isinstance(self.graph, DomainGraph) and self.graph.generator is not None:
            self.graph.generator.set_state(state["graph.rng"].cpu())

    def _terms(self, own: BatchTerms) -> BatchTerms:
        """Add up the parts of the means that the processes found."""
        if self.processes.size == 1:
            return own
        parts = [own.hidden, own.attention, own.prediction, own.prototypes]
        parts += [] if own.label is None else [own.label]
        flat = self.processes.all_reduce(torch.cat([part.reshape(-1) for part in parts]))
        whole = torch.split(flat, [part.numel() for part in parts])
        return BatchTerms(*(found.view_as(part) for found, part in zip(whole, parts, strict=True)))

    def _total(self, terms: BatchTerms) -> LossOutput:
        ratios, layers = self._ratios(terms)
        settings = self.settings
        parts = combine(
            terms,
            ratios,
            hidden_weight=settings.hidden_weight,
            attention_weight=settings.attention_weight,
            prediction_weight=settings.prediction_weight,
            label_weight=settings.label_weight,
        )
        by_kind = {}
        if self.compares:
            by_kind = {"hidden": parts.hidden, "attention": parts.attention}
        if settings.method is not Method.LABELS:
            by_kind["prediction"] = parts.prediction
        if parts.label is not None:
            by_kind["label"] = parts.label
        return LossOutput(parts.total, by_kind, ratios if self.graph is not None else None, layers)

    def _ratios(self, terms: BatchTerms) -> tuple[Tensor | None, tuple[Tensor, ...]]:
        if self.settings.graph is Graph.NONE:
            return None, ()
        if self.graph is None:
            return torch.full_like(terms.hidden, 1 / len(terms.prediction)), ()
        if self.graph_trainer is not None:
            # The graph has its own loss: the student's must not reach it, nor go through it.
            with torch.no_grad():
                found = self.graph(terms.prototypes.detach())
        else:
            found = self.graph(terms.prototypes)
        return found.domain, found.layer


def _weight_table(weights: Mapping[str, Tensor | None], heads: DomainHeads, device: torch.device) -> Tensor | None:
    """Return (D, C) factors of the classes' terms; None where all count the same."""
    if all(weight is None for weight in weights.values()):
        return None
    table = torch.ones(len(heads.domains), max(len(labels) for labels in heads.labels.values()), device=device)
    for number, domain in enumerate(heads.domains):
        weight = weights[domain]
        if weight is not None:
            table[number, : len(weight)] = weight
    return table
