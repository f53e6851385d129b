"""What the teachers show on a step's rows, read from their kept outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hrkd_cli.distillation.cache import TeacherCache
from hrkd_cli.distillation.cache_files import SHARD_ROWS
from hrkd_cli.method import ABSENT, TeacherSignals
from hrkd_cli.models.encoding import Batch, to_device
from hrkd_cli.models.unpadded import Layout
from hrkd_cli.training.rows import Pick


@dataclass(frozen=True, slots=True)
class Read:
    """A step's rows from disk.

    Attributes:
        states: (S, R, T, H), S states of each row; (S, 1, N, H) of rows side by side.
        scored: (2 L, R', T', H), queries and keys where they are kept, of each group of rows.
        logits: (R, C).
        runs: (id of the teacher, rows), in the order of the rows.
        layout: of the rows where they stand side by side.
    """

    states: Tensor
    scored: tuple[Tensor, ...]
    logits: Tensor
    runs: tuple[tuple[int, int], ...]
    layout: Layout | None


class CachedTeachers:
    """What the teachers show, read from disk (see TeacherSide)."""

    def __init__(self, cache: TeacherCache) -> None:
        self.cache = cache
        self.device = cache.arithmetic.device
        self.classes = max(len(labels) for labels in cache.teachers.heads.labels.values())
        self.pages: dict[str, list[tuple[np.ndarray | None, dict[str, np.ndarray], np.ndarray]]] = {}
        for shard in cache.shards:
            states, small = cache.folder.read(shard)
            lengths = cache.lengths[shard.domain][shard.first : shard.first + shard.rows]
            starts = np.concatenate([[0], np.cumsum(lengths)]) * cache.kept.units * cache.kept.width
            self.pages.setdefault(shard.domain, []).append((states, small, starts))

    def load(self, picks: Sequence[Pick], batch: Batch) -> Read:
        """See TeacherSide."""
        kept, layout = self.cache.kept, batch.layout
        space = _Space(len(kept.states), 2 * len(kept.scored), kept.width, batch, pinned=self.device.type == "cuda")
        logits = np.full((len(picks), self.classes), ABSENT, dtype=np.float32)
        runs: list[list[int]] = []
        for number, (domain, row) in enumerate(picks):
            page, inside = divmod(row, SHARD_ROWS)
            mapped, small, starts = self.pages[domain][page]
            if mapped is not None:
                space.put(number, mapped[starts[inside] : starts[inside + 1]].reshape(kept.units, -1, kept.width))
            own = small["logits"][inside]
            logits[number, : len(own)] = own
            model = id(self.cache.teachers.models[domain])
            if runs and runs[-1][0] == model:
                runs[-1][1] += 1
            else:
                runs.append([model, 1])
        stored = self.cache.arithmetic.stored
        states, *scored = (t.to(self.device, non_blocking=True).view(stored) for t in (space.states, *space.scored))
        own_logits = to_device(torch.from_numpy(logits), self.device)
        order = tuple((model, count) for model, count in runs)
        return Read(states, tuple(scored), own_logits, order, layout)

    @torch.no_grad()
    def signals(self, loaded: Read, numbers: Tensor) -> TeacherSignals:
        """See TeacherSide."""
        del numbers  # each row's own labels are what is kept
        kept = self.cache.kept
        hidden = loaded.states[: len(kept.layers) + 1] if kept.layers else None
        if not kept.attention:
            return TeacherSignals(hidden, None, None, loaded.logits)
        both = [self.cache.split(t) for t in loaded.scored] if kept.scored else self._derived(loaded)
        queries, keys = (tuple(parts) for parts in zip(*both, strict=True))
        return TeacherSignals(hidden, queries, keys, loaded.logits)

    def _derived(self, loaded: Read) -> list[tuple[Tensor, Tensor]]:
        """Compute queries and keys of each group, (L, R', A, T', d), from the states that enter a layer."""
        entering, layout = self.cache.entering(loaded.states), loaded.layout
        found, row = [], 0
        starts = None if layout is None else np.concatenate([[0], np.cumsum(layout.lengths)])
        for model, count in loaded.runs:
            first, last = row, row + count
            row = last
            if starts is None:
                found.append(self.cache.query_keys[model](entering[:, first:last]))
            else:
                found.append(self.cache.query_keys[model](entering[:, :, starts[first] : starts[last]]))
        # (L, R, A, T, d), or side by side (L, 1, A, N, d).
        axis = 1 if layout is None else 3
        by_kind = zip(*found, strict=True)
        queries, keys = (parts[0] if len(parts) == 1 else torch.cat(parts, dim=axis) for parts in by_kind)
        if layout is None:
            return [(queries, keys)]
        both = [[group.pad_heads(t) for group in layout.groups] for t in (queries, keys)]
        return list(zip(*both, strict=True))


class _Space:
    """Room on the host for a step's kept states; padding holds anything, also what is not a number."""

    def __init__(self, states: int, scored: int, width: int, batch: Batch, *, pinned: bool) -> None:
        def room(*shape: int) -> Tensor:
            # A GPU copies behind our back: torch knows when such memory is free again.
            return torch.empty(shape, dtype=torch.int16, pin_memory=pinned)

        layout = batch.layout
        self.states = room(states, *batch.mask.shape, width)
        grids = [batch.mask.shape] if layout is None else [(g.count, g.length) for g in layout.groups]
        self.scored = [room(scored, rows, tokens, width) for rows, tokens in grids] if scored else []
        self.count = states
        self.host, self.grids = self.states.numpy(), [t.numpy() for t in self.scored]
        self.starts = None if layout is None else np.concatenate([[0], np.cumsum(layout.lengths)])
        sizes = [batch.mask.shape[0]] if layout is None else [g.count for g in layout.groups]
        self.places = [(group, row) for group, size in enumerate(sizes) for row in range(size)]

    def put(self, number: int, slab: np.ndarray) -> None:
        """Copy a row's states, then what is scored, (U, tokens, width)."""
        tokens = slab.shape[1]
        if self.starts is None:
            self.host[:, number, :tokens] = slab[: self.count]
        else:
            self.host[:, 0, self.starts[number] : self.starts[number + 1]] = slab[: self.count]
        if self.grids:
            group, row = self.places[number]
            self.grids[group][:, row, :tokens] = slab[self.count :]
