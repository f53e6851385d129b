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
from hrkd_cli.train.columns import Columns
from hrkd_cli.train.rows import Pick
from hrkd_cli.train.teachers import Teachers


def stacked(tensors: Sequence[Tensor]) -> Tensor | None:
    """Return the tensors of several layers as one; None where there are none."""
    return torch.stack(list(tensors)) if tensors else None


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
    """Rows to be run: a batch and, for each distinct teacher, which of the rows are its own."""

    batch: Batch
    groups: tuple[tuple[Capture, Tensor | None], ...]


class AskedTeachers:
    """Runs the teachers on each step's rows; domains that share weights go through in one forward pass.

    Args:
        teachers: one a domain.
        layers: matched layers, 1-based; empty for logits only.
        attention: whether queries and keys are wanted.
        own: (encoder, token ids by domain) of the teachers where they have a tokenizer of their own; else None.
        pad_to: tokens to pad to; None for the longest row.
        device: where the models are.
    """

    def __init__(
        self,
        teachers: Teachers,
        layers: Sequence[int],
        *,
        attention: bool,
        own: tuple[Encoder, Mapping[str, Encoded]] | None,
        pad_to: int | None,
        device: torch.device,
    ) -> None:
        self.teachers = teachers
        self.own = own
        self.pad_to = pad_to
        self.device = device
        self.captures = {id(model): Capture(model, layers, attention=attention) for model in teachers.models.values()}
        self.columns = Columns(teachers.heads, list(teachers.models), device)

    def load(self, picks: Sequence[Pick], batch: Batch) -> Asked:
        """See TeacherSide."""
        if self.own is not None:
            encoder, encoded = self.own
            rows = [(encoded[domain], row) for domain, row in picks]
            batch = encoder.collate_rows(rows, self.device, pad_to=self.pad_to)
        models = [id(self.teachers.models[domain]) for domain, _ in picks]
        if len(set(models)) == 1:
            return Asked(batch, ((self.captures[models[0]], None),))
        groups: list[tuple[Capture, Tensor | None]] = []
        for model in dict.fromkeys(models):
            own = torch.tensor([n for n, other in enumerate(models) if other == model], device=self.device)
            groups.append((self.captures[model], own))
        return Asked(batch, tuple(groups))

    @torch.no_grad()
    def signals(self, loaded: Asked, numbers: Tensor) -> TeacherSignals:
        """See TeacherSide."""
        capture, own = loaded.groups[0]
        seen = capture(loaded.batch) if own is None else self._joined(loaded)
        logits = self.columns.take(seen.logits, numbers)
        return TeacherSignals(stacked(seen.hidden), stacked(seen.queries), stacked(seen.keys), None, logits)

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
