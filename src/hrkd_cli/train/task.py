"""The distillation loss of one batch of every domain: models, projections and graph around the method's pure part."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hrkd_cli.config import DistillSettings, Graph, Means, Method
from hrkd_cli.hrkd import DomainGraph, DomainTerms, Projections, Signals, combine, domain_terms
from hrkd_cli.model.capture import Capture, layer_map, select_columns
from hrkd_cli.model.encoding import Batch, Encoded, Encoder
from hrkd_cli.model.sizes import sizes_of
from hrkd_cli.runtime.heads import DomainHeads
from hrkd_cli.train.loop import Rows, TaskLoss
from hrkd_cli.train.teachers import Teachers


class DistillTask:
    """Runs teacher and student on the same rows and compares them (sections 3.1 to 3.4 of the paper).

    Args:
        teachers: one a domain.
        student: the student's classifier.
        heads: the student's outputs.
        settings: resolved settings (see DistillSettings.resolved).
        rows: the train split as each side sees it: (encoder, token ids by domain) of teacher and student; the very same
            pair twice where they share a tokenizer.
        class_weights: (C,) factors by domain, or None.
        device: where everything lives.
    """

    def __init__(
        self,
        teachers: Teachers,
        student: Any,
        heads: DomainHeads,
        settings: DistillSettings,
        *,
        rows: tuple[tuple[Encoder, dict[str, Encoded]], tuple[Encoder, dict[str, Encoded]]],
        class_weights: dict[str, Tensor | None],
        device: torch.device,
    ) -> None:
        self.teachers = teachers
        self.heads = heads
        self.settings = settings
        self.teacher_rows, self.student_rows = rows
        self.class_weights = class_weights
        self.device = device
        self.padded = settings.means is Means.RELEASED
        sizes = [len(labels) for labels in heads.labels.values()]
        self.mean_classes = sum(sizes) / len(sizes)

        own, theirs = sizes_of(student.config), sizes_of(teachers.root.config)
        compares = settings.method is not Method.LOGITS and settings.hidden_weight > 0
        attention = compares and settings.attention_weight > 0
        matched = layer_map(theirs.layers, own.layers) if compares else ()
        self.student = Capture(student, range(1, own.layers + 1) if compares else (), attention=attention)
        self.capture = {
            domain: Capture(model, matched, attention=attention) for domain, model in teachers.models.items()
        }
        self.projections: Projections | None = None
        self.graph: DomainGraph | None = None
        torch.manual_seed(settings.seed)
        if compares:
            # The released start is kept with the released means, for those who reproduce the paper.
            near = own.width == theirs.width and not self.padded
            projections = Projections(own.width, theirs.width, own.layers, around_identity=near)
            self.projections = projections.to(device)
            if settings.graph is Graph.FROZEN:
                graph = DomainGraph(theirs.width, own.layers, len(heads.domains), hierarchy=bool(settings.hierarchy))
                # As released: random, never trained, its dropout on.
                self.graph = graph.requires_grad_(False).to(device).train()

    def loss(self, rows: Rows) -> TaskLoss:
        """Run one batch of every domain."""
        terms = [self._terms(domain, list(rows[domain])) for domain in self.heads.domains]
        ratios, layers = self._ratios(terms)
        settings = self.settings
        parts = combine(
            terms,
            ratios,
            hidden_weight=settings.hidden_weight,
            attention_weight=settings.attention_weight,
            prediction_weight=settings.prediction_weight,
        )
        by_kind = {"prediction": parts.prediction}
        if self.projections is not None:
            by_kind = {"hidden": parts.hidden, "attention": parts.attention, **by_kind}
        return TaskLoss(parts.total, by_kind, ratios if self.graph is not None else None, layers)

    def _ratios(self, terms: list[DomainTerms]) -> tuple[Tensor | None, tuple[Tensor, ...]]:
        if self.settings.graph is Graph.NONE:
            return None, ()
        if self.graph is None:
            return terms[0].prediction.new_full((len(terms[0].hidden), len(terms)), 1 / len(terms)), ()
        found = self.graph(torch.stack([t.prototypes for t in terms], dim=1))
        return found.domain, found.layer

    def _terms(self, domain: str, indices: list[int]) -> DomainTerms:
        batch = self._batch(self.student_rows, domain, indices)
        shared = self.teacher_rows is self.student_rows
        with torch.no_grad():
            teacher = self._signals(
                self.capture[domain],
                batch if shared else self._batch(self.teacher_rows, domain, indices),
                self.teachers.heads.columns[domain],
                None,
            )
        student = self._signals(self.student, batch, self.heads.columns[domain], self.projections)
        return domain_terms(
            teacher,
            student,
            batch.mask,
            temperature=self.settings.temperature,
            mean_classes=self.mean_classes,
            class_weights=self.class_weights[domain],
            padded=self.padded,
        )

    def _batch(self, side: tuple[Encoder, dict[str, Encoded]], domain: str, indices: list[int]) -> Batch:
        encoder, encoded = side
        # The released code pads everything to the maximum, which its unmasked means can see.
        pad_to = encoder.max_length if self.padded else None
        return encoder.collate(encoded[domain], indices, self.device, pad_to=pad_to)

    @staticmethod
    def _signals(capture: Capture, batch: Batch, columns: tuple[int, ...], projections: Projections | None) -> Signals:
        seen = capture(batch)
        hidden = seen.hidden if projections is None else projections(seen.hidden)
        return Signals(hidden, seen.scores(), select_columns(seen.logits, columns))
