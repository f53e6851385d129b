"""Teacher outputs for one batch: hidden states, queries and keys, logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from hrkd_cli.distillation.teachers import Teachers
from hrkd_cli.method import TeacherSignals
from hrkd_cli.models.capture import Capture
from hrkd_cli.models.encoding import Batch, Encoded, Encoder, to_device
from hrkd_cli.training.columns import Columns
from hrkd_cli.training.rows import Pick


def stacked(tensors: Sequence[Tensor]) -> Tensor | None:
    """Return the tensors of several layers as one; None where there are none."""
    return torch.stack(list(tensors)) if tensors else None


class TeacherOutputs(Protocol):
    """Gives the teacher's part of a batch."""

    def load(self, picks: Sequence[Pick], batch: Batch) -> Any:
        """Get everything that ``signals`` needs for these rows; may run in another thread.

        Args:
            picks: the rows.
            batch: the same rows as the student sees them.
        """
        ...

    def signals(self, loaded: Any, numbers: Tensor) -> TeacherSignals:
        """Return the outputs.

        Args:
            loaded: what ``load`` returned.
            numbers: (R,), each row's domain.
        """
        ...


class NoTeacher:
    """For students that learn from labels alone: logits are zeros, there is nothing else."""

    def load(self, picks: Sequence[Pick], batch: Batch) -> int:
        """See TeacherOutputs."""
        del batch
        return len(picks)

    def signals(self, loaded: int, numbers: Tensor) -> TeacherSignals:
        """See TeacherOutputs."""
        return TeacherSignals(None, None, None, torch.zeros(loaded, 1, device=numbers.device))


@dataclass(frozen=True, slots=True)
class OnlineBatch:
    """Rows for the teachers to run.

    Attributes:
        batch: all rows, padded.
        rows: by the id of a teacher, the numbers of its rows in the batch.
    """

    batch: Batch
    rows: dict[int, Tensor]


class OnlineTeacher:
    """Runs the teachers on each batch; domains that share weights go through in one forward pass.

    Args:
        teachers: one for each domain.
        layers: matched layers, 1-based; empty for logits only.
        attention: whether queries and keys are wanted.
        rows: the training data as the teachers see it: (encoder, token ids by domain).
        own_tokenizer: whether the student sees it differently.
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
        self.layers = tuple(layers)
        self.attention = attention and bool(layers)
        self.encoder, self.encoded = rows
        self.own_tokenizer = own_tokenizer
        self.pad_to = pad_to
        self.device = device
        self.captures = {id(model): Capture(model, layers, attention=attention) for model in teachers.models.values()}
        self.columns = Columns(teachers.heads, list(teachers.models), device)

    def load(self, picks: Sequence[Pick], batch: Batch) -> OnlineBatch:
        """See TeacherOutputs."""
        if self.own_tokenizer:
            own = [(self.encoded[domain], row) for domain, row in picks]
            batch = self.encoder.collate_rows(own, self.device, pad_to=self.pad_to)
        models = np.array([id(self.teachers.models[domain]) for domain, _ in picks])
        rows = {int(model): np.flatnonzero(models == model) for model in np.unique(models)}
        return OnlineBatch(batch, {m: to_device(torch.from_numpy(n), self.device) for m, n in rows.items()})

    @torch.no_grad()
    def signals(self, loaded: OnlineBatch, numbers: Tensor) -> TeacherSignals:
        """See TeacherOutputs."""
        batch, alone = loaded.batch, len(loaded.rows) == 1
        seen = [
            self.captures[model](
                batch if alone else Batch({name: t[rows] for name, t in batch.inputs.items()}, batch.mask[rows])
            )
            for model, rows in loaded.rows.items()
        ]
        order = torch.cat(list(loaded.rows.values())).argsort()

        def in_order(parts: list[Tensor], axis: int) -> Tensor:
            return parts[0] if alone else torch.cat(parts, dim=axis).index_select(axis, order)

        def by_layer(name: str) -> Tensor:
            return in_order([torch.stack(getattr(part, name)) for part in seen], 1)

        logits = self.columns.take(in_order([part.logits for part in seen], 0), numbers)
        hidden = by_layer("hidden") if self.layers else None
        queries, keys = (by_layer(name) if self.attention else None for name in ("queries", "keys"))
        return TeacherSignals(hidden, queries, keys, logits)
