"""What of teacher and student is compared, and the teacher's outputs for one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from hrkd_cli.choices import Means
from hrkd_cli.distillation.teachers import Teachers
from hrkd_cli.method import LOSSES, Loss, Need, Outputs, weighted_losses
from hrkd_cli.models.capture import Capture, layer_map
from hrkd_cli.models.encoding import Batch, to_device
from hrkd_cli.models.sizes import sizes_of
from hrkd_cli.settings import DistillSettings
from hrkd_cli.training.rows import EncodedSplit, LabelGather, Pick

BATCH_TOKENS = {"cpu": 1024, "cuda": 65536, "mps": 8192}  # padded tokens of a batch that only the teacher runs


@dataclass(frozen=True, slots=True)
class Comparison:
    """What of teacher and student is compared.

    Attributes:
        losses: those that have a weight, with their weights.
        layers: matched teacher layers, 1-based, one for each student layer; empty for logits only.
        width: H, of the teacher.
        pad_to: tokens that all rows are padded to where means run over padding too (released code); else None.
    """

    losses: Mapping[Loss, float]
    layers: tuple[int, ...]
    width: int
    pad_to: int | None

    @classmethod
    def of(cls, settings: DistillSettings, teacher: Any, student: Any) -> Comparison:
        """Read it off resolved settings and the models' configurations."""
        weights = {loss.name: getattr(settings, f"{loss.name}_weight") for loss in LOSSES}
        sizes = sizes_of(teacher)
        layers = layer_map(sizes.layers, sizes_of(student).layers) if settings.compares else ()
        losses = weighted_losses(weights, layers=settings.compares)
        return cls(losses, layers, sizes.width, settings.max_length if settings.means is Means.RELEASED else None)

    def needs(self, *what: Need) -> bool:
        """Tell whether a loss looks at any of these."""
        return any(need in loss.needs for loss in self.losses for need in what)


class TeacherOutputs(Protocol):
    """Gives the teacher's outputs for rows."""

    def load(self, picks: Sequence[Pick], batch: Batch) -> Callable[[], Outputs]:
        """Read what is needed for some rows, in any thread; return a function that gives their outputs.

        ``batch`` has the same rows as the student sees them.
        """
        ...


class OnlineTeacher:
    """Runs the teachers on each batch; domains that share weights go through in one forward pass.

    Args:
        teachers: one for each domain.
        comparison: what of them is compared.
        rows: the training data as the teachers see it.
        own_tokenizer: whether the student sees it differently.
        device: where the models are.
    """

    def __init__(
        self,
        teachers: Teachers,
        comparison: Comparison,
        rows: EncodedSplit,
        *,
        own_tokenizer: bool,
        device: torch.device,
    ) -> None:
        self.teachers = teachers
        self.layers = comparison.layers
        self.attention = comparison.needs(Need.ATTENTION)
        self.rows = rows
        self.own_tokenizer = own_tokenizer
        self.pad_to = comparison.pad_to
        self.device = device
        models = teachers.models.values()
        self.captures = {id(model): Capture(model, self.layers, attention=self.attention) for model in models}
        self.domains = list(teachers.models)
        self.columns = LabelGather(teachers.heads, self.domains, device)

    def load(self, picks: Sequence[Pick], batch: Batch) -> Callable[[], Outputs]:
        """See TeacherOutputs."""
        if self.own_tokenizer:
            own = [(self.rows.encoded[domain], row) for domain, row in picks]
            batch = self.rows.encoder.collate_rows(own, self.device, pad_to=self.pad_to)
        models = np.array([id(self.teachers.models[domain]) for domain, _ in picks])
        rows = {
            int(m): to_device(torch.from_numpy(np.flatnonzero(models == m)), self.device) for m in np.unique(models)
        }
        numbers = torch.tensor([self.domains.index(domain) for domain, _ in picks])
        return partial(self._run, batch, rows, to_device(numbers, self.device))

    @torch.no_grad()
    def _run(self, batch: Batch, rows: dict[int, Tensor], domains: Tensor) -> Outputs:
        if len(rows) == 1:
            (model,) = rows
            seen = self.captures[model](batch)
        else:
            order = torch.cat(list(rows.values())).argsort()
            parts = [
                self.captures[model](Batch({name: t[own] for name, t in batch.inputs.items()}, batch.mask[own]))
                for model, own in rows.items()
            ]

            def joined(tensors: list[Tensor | None], axis: int) -> Any:
                found = [tensor for tensor in tensors if tensor is not None]
                return torch.cat(found, dim=axis).index_select(axis, order) if found else None

            hidden, queries, keys = (
                joined([getattr(part, name) for part in parts], 1) for name in ("hidden", "queries", "keys")
            )
            seen = Outputs(hidden, queries, keys, joined([part.logits for part in parts], 0))
        return replace(seen, logits=self.columns.take(seen.logits, domains))


def batches_of(rows: Sequence[int], lengths: np.ndarray, tokens: int) -> Iterator[list[int]]:
    """Cut rows, the longest first, into batches of at most so many padded tokens, or one row."""
    start = 0
    while start < len(rows):
        size = max(1, tokens // max(1, int(lengths[rows[start]])))
        yield list(rows[start : start + size])
        start += size
