"""What the teachers show on a step's rows: asked anew each time, or read from disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from hrkd_cli.distillation.teachers import Teachers
from hrkd_cli.method import TeacherSignals
from hrkd_cli.models.capture import Capture, Captured
from hrkd_cli.models.encoding import Batch, Encoded, Encoder
from hrkd_cli.models.unpadded import Layout
from hrkd_cli.training.columns import Columns
from hrkd_cli.training.rows import Pick


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
        return TeacherSignals(None, None, None, torch.zeros(loaded, 1, device=numbers.device))


@dataclass(frozen=True, slots=True)
class Asked:
    """Rows to be run as one padded batch: for each distinct teacher, which of them are its own (None: all)."""

    batch: Batch
    groups: tuple[tuple[Capture, Tensor | None], ...]


@dataclass(frozen=True, slots=True)
class AskedRows:
    """A step's rows to be run, in one part, or in one for each group where the student has them side by side."""

    parts: tuple[Asked, ...]
    side_by_side: bool


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
        self.columns = Columns(teachers.heads, list(teachers.models), device)

    def load(self, picks: Sequence[Pick], batch: Batch) -> AskedRows:
        """See TeacherSide. Rows that the student has side by side are padded here, group by group."""
        if batch.layout is None:
            return AskedRows((self._load(picks, None if self.own_tokenizer else batch),), side_by_side=False)
        parts = (self._load(picks[group.rows], None) for group in batch.layout.groups)
        return AskedRows(tuple(parts), side_by_side=True)

    def _load(self, picks: Sequence[Pick], batch: Batch | None) -> Asked:
        if batch is None:
            rows = [(self.encoded[domain], row) for domain, row in picks]
            batch = self.encoder.collate_rows(rows, self.device, pad_to=self.pad_to)
        models = [id(self.teachers.models[domain]) for domain, _ in picks]
        if len(set(models)) == 1:
            return Asked(batch, ((self.captures[models[0]], None),))
        groups: list[tuple[Capture, Tensor | None]] = []
        for model in dict.fromkeys(models):
            own = torch.tensor([n for n, other in enumerate(models) if other == model], device=self.device)
            groups.append((self.captures[model], own))
        return Asked(batch, tuple(groups))

    @torch.no_grad()
    def signals(self, loaded: AskedRows, numbers: Tensor) -> TeacherSignals:
        """See TeacherSide."""
        seen = [self._run(part) for part in loaded.parts]
        logits = self.columns.take(torch.cat([part.logits for part in seen]), numbers)
        hidden = [torch.stack(part.hidden) for part in seen if part.hidden]  # (L+1, R', T', H) each
        queries = tuple(torch.stack(part.queries) for part in seen if part.queries) or None
        keys = tuple(torch.stack(part.keys) for part in seen if part.keys) or None
        if not hidden:
            return TeacherSignals(None, None, None, logits)
        if not loaded.side_by_side:
            return TeacherSignals(hidden[0], queries, keys, logits)
        tokens = [states[:, part.batch.mask] for states, part in zip(hidden, loaded.parts, strict=True)]
        return TeacherSignals(torch.cat(tokens, dim=1)[:, None], queries, keys, logits)

    def _run(self, asked: Asked) -> Captured:
        capture, own = asked.groups[0]
        return capture(asked.batch) if own is None else self._joined(asked)

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
