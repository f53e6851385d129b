"""What the teachers show on a step's rows: asked anew each time, or read from disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from hrkd_cli.hrkd import TeacherSignals
from hrkd_cli.model.capture import Capture, Captured
from hrkd_cli.model.encoding import Batch, Encoded, Encoder
from hrkd_cli.model.unpadded import Layout, SideBySide
from hrkd_cli.train.columns import Columns
from hrkd_cli.train.rows import Pick
from hrkd_cli.train.teachers import Teachers


def stacked(tensors: Sequence[Tensor]) -> Tensor | None:
    """Return the tensors of several layers as one; None where there are none."""
    return torch.stack(list(tensors)) if tensors else None


def stacked_by_group(tensors: Sequence[Tensor], layout: Layout | None) -> tuple[Tensor, ...] | None:
    """Return queries or keys as they were captured, with the layers of each group as one; None where there are none."""
    groups = 1 if layout is None else len(layout.groups)
    return tuple(torch.stack(list(tensors[n::groups])) for n in range(groups)) if tensors else None


class TeacherSide(Protocol):
    """Gives the teachers' part of a step."""

    def load(self, picks: Sequence[Pick], batch: Batch) -> Any:
        """Get what is needed for these rows ready; may run in another thread.

        Args:
            picks: the rows.
            batch: the same rows as the student sees them.
        """
        ...

    def signals(self, loaded: Any, numbers: Tensor) -> TeacherSignals:
        """Return what the teachers show.

        Args:
            loaded: what ``load`` returned.
            numbers: (R,), each row's domain.
        """
        ...


class NoTeachers:
    """For students that learn from labels alone: nothing is run, and answers that nobody looks at are zeros."""

    def load(self, picks: Sequence[Pick], batch: Batch) -> int:
        """See TeacherSide."""
        del batch
        return len(picks)

    def signals(self, loaded: int, numbers: Tensor) -> TeacherSignals:
        """See TeacherSide."""
        return TeacherSignals(None, None, None, None, torch.zeros(loaded, 1, device=numbers.device))


@dataclass(frozen=True, slots=True)
class Asked:
    """Rows to be run.

    Attributes:
        batch: as the teachers see them.
        groups: for each distinct teacher, which of the rows are its own.
        layout: how the student has them where they stand side by side.
    """

    batch: Batch
    groups: tuple[tuple[Capture, Tensor | None], ...]
    layout: Layout | None


class AskedTeachers:
    """Runs the teachers on each step's rows; domains that share weights go through in one forward pass.

    Args:
        teachers: one a domain.
        layers: matched layers, 1-based; empty for logits only.
        attention: whether queries and keys are wanted.
        rows: what is learnt from as the teachers see it: (encoder, token ids by domain).
        own_tokenizer: whether that is not as the student sees it.
        pad_to: tokens to pad to; None for the longest row.
        device: where the models are.
    """

    def __init__(
        self,
        teachers: Teachers,
        layers: Sequence[int],
        *,
        attention: bool,
        rows: tuple[Encoder, Mapping[str, Encoded]],
        own_tokenizer: bool,
        pad_to: int | None,
        device: torch.device,
    ) -> None:
        self.teachers = teachers
        self.encoder, self.encoded = rows
        self.own_tokenizer = own_tokenizer
        self.pad_to = pad_to
        self.device = device
        self.captures = {id(model): Capture(model, layers, attention=attention) for model in teachers.models.values()}
        beside = device.type == "cpu" and pad_to is None
        self.side_by_side = {id(m): SideBySide.find(m) if beside else None for m in set(teachers.models.values())}
        self.columns = Columns(teachers.heads, list(teachers.models), device)

    def load(self, picks: Sequence[Pick], batch: Batch) -> Asked:
        """See TeacherSide."""
        layout = batch.layout
        models = [id(self.teachers.models[domain]) for domain, _ in picks]
        one = len(set(models)) == 1
        if self.own_tokenizer or layout is not None:
            rows = [(self.encoded[domain], row) for domain, row in picks]
            beside = self.side_by_side[models[0]] if one and not self.own_tokenizer else None
            if layout is not None and beside is not None:
                batch = self.encoder.side_by_side(rows, layout, beside)
            else:
                batch = self.encoder.collate_rows(rows, self.device, pad_to=self.pad_to)
        if one:
            return Asked(batch, ((self.captures[models[0]], None),), layout)
        groups: list[tuple[Capture, Tensor | None]] = []
        for model in dict.fromkeys(models):
            own = torch.tensor([n for n, other in enumerate(models) if other == model], device=self.device)
            groups.append((self.captures[model], own))
        return Asked(batch, tuple(groups), layout)

    @torch.no_grad()
    def signals(self, loaded: Asked, numbers: Tensor) -> TeacherSignals:
        """See TeacherSide."""
        capture, own = loaded.groups[0]
        seen = capture(loaded.batch) if own is None else self._joined(loaded)
        logits = self.columns.take(seen.logits, numbers)
        hidden, both, layout = stacked(seen.hidden), (seen.queries, seen.keys), loaded.layout
        if hidden is None or layout is None or loaded.batch.layout is not None:
            queries, keys = (stacked_by_group(t, loaded.batch.layout) for t in both)
            return TeacherSignals(hidden, queries, keys, None, logits)
        # Padded here, side by side at the student.
        hidden = hidden[:, loaded.batch.mask][:, None]  # (L+1, 1, N, H)
        queries, keys = (
            tuple(torch.stack([layer[g.rows, :, : g.length] for layer in t]) for g in layout.groups) if t else None
            for t in both
        )
        return TeacherSignals(hidden, queries, keys, None, logits)

    @staticmethod
    def _joined(loaded: Asked) -> Captured:
        """Run each teacher on its rows and put the results in the order of the rows."""
        parts, order = [], []
        for capture, rows in loaded.groups:
            assert rows is not None
            inputs = {name: tensor[rows] for name, tensor in loaded.batch.inputs.items()}
            parts.append(capture(Batch(inputs, loaded.batch.mask[rows])))
            order.append(rows)
        back = torch.cat(order).argsort()

        def join(tensors: Sequence[Tensor]) -> Tensor:
            return torch.cat(list(tensors))[back]

        def join_all(lists: Sequence[list[Tensor]]) -> list[Tensor]:
            return [join(tensors) for tensors in zip(*lists, strict=True)]

        return Captured(
            join([part.logits for part in parts]),
            join_all([part.hidden for part in parts]),
            join_all([part.queries for part in parts]),
            join_all([part.keys for part in parts]),
        )
