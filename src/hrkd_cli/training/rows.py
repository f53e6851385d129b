"""The rows of a step: this process's part of them, and what each counts for in its domain's means."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from hrkd_cli.errors import UsageError
from hrkd_cli.method import Labels, Shares
from hrkd_cli.models.encoding import to_device
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

    On a CPU only: on a GPU, where a small product takes as long as a large one, they stay together.

    Args:
        picks: the rows, at least one.
        lengths: tokens of each row by domain.
        device: where the model runs.

    Returns:
        The pieces, each with its rows in the order given: those of a domain, and of its teacher, together.
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


def check_share(batch_size: int, domains: int, processes: ProcessGroup) -> None:
    """Make sure that a step has a row for every process.

    Raises:
        UsageError: it has not.
    """
    if batch_size * domains < processes.size:
        raise UsageError(
            f"--processes {processes.size}: a step has {batch_size * domains} rows, fewer than processes; raise "
            "--batch-size or use fewer"
        )


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


def make_labels(rows: Rows, picks: Sequence[Pick], labels: Mapping[str, np.ndarray], device: torch.device) -> Labels:
    """Return the labels of this process's rows and what each counts for in its domain's label loss.

    Args:
        rows: the whole step.
        picks: this process's part of it.
        labels: right answers by domain, of its first rows; those after them have none.
        device: where the tensors go.
    """
    known = {domain: sum(row < len(labels[domain]) for row in chosen) for domain, chosen in rows.items()}
    has = [row < len(labels[domain]) for domain, row in picks]
    targets = [int(labels[domain][row]) if h else 0 for (domain, row), h in zip(picks, has, strict=True)]
    shares = [1 / known[domain] if h else 0.0 for (domain, _), h in zip(picks, has, strict=True)]
    return Labels(
        to_device(torch.tensor(targets, dtype=torch.int64), device),
        to_device(torch.tensor(shares, dtype=torch.float32), device),
    )


def make_shares(
    rows: Rows,
    picks: Sequence[Pick],
    lengths: Mapping[str, np.ndarray],
    domains: Sequence[str],
    device: torch.device,
    *,
    pad_to: int | None = None,
    weights: Mapping[str, np.ndarray] | None = None,
) -> Shares:
    """Work out the shares of this process's rows in the means of the whole step.

    With weights the means of a domain are weighted ones, ``sum_i w_i x_i / sum_i w_i`` with what x_i is the mean of (a
    row, its tokens, their pairs) counted in both sums.

    Args:
        rows: the whole step.
        picks: this process's part of it.
        lengths: tokens of each row by domain.
        domains: in the order of every per-domain tensor.
        device: where the shares go.
        pad_to: tokens that all rows are padded to where means run over padding too (the released code); None for means
            over valid tokens.
        weights: of every row by domain; None where all count the same.
    """
    numbers = {domain: number for number, domain in enumerate(domains)}
    of = np.zeros((len(domains), len(picks)))
    of[[numbers[domain] for domain, _ in picks], range(len(picks))] = 1
    factors = {d: np.ones(len(chosen)) if weights is None else weights[d][list(chosen)] for d, chosen in rows.items()}
    factor = np.array([1.0 if weights is None else weights[domain][row] for domain, row in picks])
    own = np.array([lengths[domain][row] for domain, row in picks])
    whole = {domain: lengths[domain][list(chosen)].astype(np.float64) for domain, chosen in rows.items()}
    if pad_to is not None:
        whole = {domain: np.full(len(chosen), float(pad_to)) for domain, chosen in rows.items()}
    tokens = {domain: 1 / (factors[domain] * counts).sum() for domain, counts in whole.items()}
    pairs = {domain: 1 / (factors[domain] * np.square(counts)).sum() for domain, counts in whole.items()}
    per_row = factor * np.array([1 / factors[domain].sum() for domain, _ in picks])
    per_token = factor * np.array([tokens[domain] for domain, _ in picks])
    per_pair = factor * np.array([pairs[domain] for domain, _ in picks])

    def put(array: np.ndarray) -> torch.Tensor:
        return to_device(torch.from_numpy(array.astype(np.float32)), device)

    valid = np.arange(pad_to or int(own.max())) < own[:, None]  # (R, T)
    keys = None if valid.all() else to_device(torch.from_numpy(valid), device)
    counted = None if pad_to is not None else keys
    per_token = per_token[:, None] * (np.ones_like(valid) if pad_to is not None else valid)
    return Shares(put(of), put(per_row), put(per_token), put(per_pair), counted, keys)
