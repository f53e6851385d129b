"""The rows of a step: this process's part of them, pieces of similar length, each row's own logits."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from hrkd_cli.method import MASKED_LOGIT
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.training.loop import Rows
from hrkd_cli.training.process_group import ProcessGroup

Pick = tuple[str, int]  # domain, row

# What a second pass through the model must save on a CPU to be worth its own costs (docs/performance.md).
SPARED_TOKENS = 128.0
SPARED_SHARE = 0.1


def picks_of(rows: Rows, processes: ProcessGroup) -> list[Pick]:
    """Return this process's part of a step's rows, domain after domain."""
    return processes.shard((domain, row) for domain, chosen in rows.items() for row in chosen)


def pieces_of(picks: Sequence[Pick], lengths: Mapping[str, np.ndarray], device: torch.device) -> list[list[Pick]]:
    """Split a step's rows into short and long ones where that spares enough padding, and these again.

    On a CPU only: on a GPU, where a small product takes as long as a large one, they stay together. ``lengths`` are
    tokens of each row by domain. The rows of a piece keep their order: those of a domain, and of its teacher, together.
    """
    if device.type != "cpu":
        return [list(picks)]
    own = np.array([lengths[domain][row] for domain, row in picks])
    return [[picks[n] for n in np.sort(numbers)] for numbers in _split(own, np.argsort(own, kind="stable"))]


def _split(lengths: np.ndarray, order: np.ndarray) -> list[np.ndarray]:
    """Split row numbers, sorted by length, where it spares most padding, as long as it is worth it."""
    sizes, longest = np.arange(1, len(order)), lengths[order[-1]]
    spared = sizes * (longest - lengths[order[:-1]])
    whole = len(order) * longest
    if not len(spared) or spared.max() < max(SPARED_TOKENS, SPARED_SHARE * whole):
        return [order]
    short = int(spared.argmax()) + 1
    return _split(lengths, order[:short]) + _split(lengths, order[short:])


def hold_back(labels: np.ndarray, share: float, seed: str) -> list[int]:
    """Choose rows to hold back: this share, spread over the labels as they are, never the last of a label."""
    draw = random.Random(seed)
    names, sizes = np.unique(labels, return_counts=True)
    wanted = max(1, round(share * len(labels)))
    exact = sizes * (wanted / len(labels))
    counts = np.minimum(np.floor(exact).astype(int), sizes - 1)
    # What is left goes to the labels that were rounded off most, as long as they keep a row.
    for place in np.argsort(np.floor(exact) - exact, kind="stable"):
        counts[place] += int(counts.sum() < wanted and counts[place] < sizes[place] - 1)
    chosen = zip(names, counts.tolist(), strict=True)
    return sorted(row for name, count in chosen for row in draw.sample(np.flatnonzero(labels == name).tolist(), count))


class LabelGather:
    """Takes the logits of each row's own labels out of all outputs, in one operation.

    ``domains`` are in the order of the numbers that ``take`` is given.
    """

    def __init__(self, heads: DomainHeads, domains: Sequence[str], device: torch.device) -> None:
        sizes = [len(heads.columns[domain]) for domain in domains]
        table = [[*heads.columns[d], *[0] * (max(sizes) - size)] for d, size in zip(domains, sizes, strict=True)]
        self.table = torch.tensor(table, device=device)  # (D, C)
        absent = torch.arange(max(sizes)) >= torch.tensor(sizes)[:, None]
        self.absent = absent.to(device) if bool(absent.any()) else None
        self.classes = max(sizes)

    def take(self, logits: Tensor, numbers: Tensor) -> Tensor:
        """Return (R, C) of (R, outputs): row r of domain ``numbers[r]``; MASKED_LOGIT where it has fewer than C."""
        own = logits.gather(1, self.table[numbers])
        return own if self.absent is None else own.masked_fill(self.absent[numbers], MASKED_LOGIT)
