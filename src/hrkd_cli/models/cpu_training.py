"""Dropout, attention and embeddings as a CPU runs them fast in training. The same mathematics, other random masks.

Torch draws dropout masks on a CPU one number after the other, and takes attention with dropout apart into a dozen
passes over float32 scores. Here random bits come from a vectorised generator (SFC64), seeded from torch's own random
state so that a resumed run draws the same, and attention keeps its scores in the precision of the run: without dropout,
too, where a gradient is to come, for which torch's own kernel takes twice as long. An embedding that several pieces of
a step look into gets one gradient of all: each of its own would be as large as the table.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_LONGEST = 512  # tokens up to which attention without dropout keeps its T x T scores
_STREAMS = 2  # of random numbers, always as many: masks do not depend on how many threads there are
_WORTH_THREADS = 2**19  # numbers in a mask from which the streams are drawn in threads of their own
_LEVELS = 2**16  # a mask's share is a multiple of 1/_LEVELS
_PLAIN = {"query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa"}


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_STREAMS, thread_name_prefix="masks")


if hasattr(os, "register_at_fork"):  # a forked process has none of the threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


def _numbers(stream: np.random.SFC64, count: int) -> np.ndarray:
    found: np.ndarray = stream.random_raw(count)  # other threads run meanwhile
    return found


class Masks:
    """Draws dropout masks; seeded from torch's random state when first used."""

    def __init__(self) -> None:
        self._streams: list[np.random.SFC64] = []

    def draw(self, shape: torch.Size, share: float, dtype: torch.dtype) -> tuple[Tensor, float]:
        """Return a mask of ``shape``, 1 at what is kept and else 0, and the factor that makes up for what is not."""
        if not self._streams:
            seeds = np.random.SeedSequence(int(torch.randint(2**62, ()).item())).spawn(_STREAMS)
            self._streams = [np.random.SFC64(seed) for seed in seeds]
        dropped = min(round(share * _LEVELS), _LEVELS - 1)
        factor = _LEVELS / (_LEVELS - dropped)
        keep = torch.empty(shape.numel(), dtype=dtype)
        parts = keep.tensor_split(_STREAMS)
        # Four draws of 16 bits from each 64-bit number.
        sizes = [-(-len(part) // 4) for part in parts]
        at_once = torch.get_num_threads() > 1 and len(keep) >= _WORTH_THREADS
        draw = _pool().map if at_once else map
        for part, numbers in zip(parts, draw(_numbers, self._streams, sizes), strict=True):
            # Compared into numbers at once: torch is slow to turn truth values into bf16.
            bits = torch.from_numpy(numbers.view(np.int16))[: len(part)]
            torch.ge(bits, dropped - _LEVELS // 2, out=part)
        return keep.view(shape), factor


class CpuTraining(TorchFunctionMode):
    """Inside it, dropout, attention and embeddings on CPU tensors run as described above; all else as ever."""

    def __init__(self) -> None:
        super().__init__()
        self.masks = Masks()
        self.tables: dict[int, tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.dropout:
            given = dict(zip(("input", "p", "training", "inplace"), args, strict=False)) | kwargs
            values, share = given["input"], given.get("p", 0.5)
            if given.get("training", True) and 0 < share < 1 and not given.get("inplace") and _is_ours(values):
                return _Dropout.apply(values, *self.masks.draw(values.shape, share, values.dtype))  # type: ignore[no-untyped-call]
        elif func is F.scaled_dot_product_attention:
            given = dict(zip(("query", "key", "value", "attn_mask", "dropout_p", "is_causal"), args, strict=False))
            given |= kwargs
            if self._can_attend(given):
                return self._attend(given)
        elif func is F.embedding:
            given = dict(zip(("input", "weight", "padding_idx"), args, strict=False)) | kwargs
            weight = given["weight"]
            extra = len(args) > 3 or any(given.get(n) for n in ("max_norm", "scale_grad_by_freq", "sparse"))
            if torch.is_grad_enabled() and weight.requires_grad and _is_ours(weight) and not extra:
                return self._look_up(given["input"], weight, given.get("padding_idx"))
        return func(*args, **kwargs)

    def _look_up(self, ids: Tensor, weight: Tensor, padding: int | None) -> Tensor:
        if id(weight) not in self.tables:
            seen: list[tuple[Tensor, Tensor]] = []
            own = -1 if padding is None else padding % len(weight)
            table: Tensor = _Table.apply(weight, own, seen)  # type: ignore[no-untyped-call]
            self.tables[id(weight)] = (weight, table, seen)  # the weights stay, and so does their id
        _, table, seen = self.tables[id(weight)]
        found: Tensor = _LookUp.apply(table, weight.detach(), ids, seen)  # type: ignore[no-untyped-call]
        return found

    @staticmethod
    def _can_attend(given: dict[str, Any]) -> bool:
        share, query, key, mask = given.get("dropout_p", 0.0), given["query"], given["key"], given.get("attn_mask")
        if share == 0:
            wanted = torch.is_grad_enabled() and query.requires_grad and key.shape[-2] <= _LONGEST
        else:
            wanted = 0 < share < 1
        if not wanted or given.get("is_causal") or given.get("enable_gqa"):
            return False
        same = query.dim() == 4 and query.shape[:2] == key.shape[:2] == given["value"].shape[:2]
        return same and _is_ours(query) and not (mask is not None and mask.requires_grad) and given.keys() <= _PLAIN

    def _attend(self, given: dict[str, Any]) -> Tensor:
        query, key, value = given["query"], given["key"], given["value"]
        if torch.is_autocast_enabled("cpu"):
            query, key, value = (t.to(torch.get_autocast_dtype("cpu")) for t in (query, key, value))
        scale = given.get("scale")
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        share, keep, factor = given.get("dropout_p", 0.0), None, 1.0
        if share:
            keep, factor = self.masks.draw(torch.Size((*query.shape[:3], key.shape[2])), share, query.dtype)
        mask = given.get("attn_mask")
        with torch.autocast("cpu", enabled=False):
            found: Tensor = _Attention.apply(query, key, value, mask, scale, keep, factor)  # type: ignore[no-untyped-call]
        return found


def _is_ours(values: Tensor) -> bool:
    return values.device.type == "cpu" and values.is_floating_point() and values.numel() > 0


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, keep: Tensor, factor: float) -> Tensor:
        ctx.save_for_backward(keep)
        ctx.factor = factor
        return (values * keep).mul_(factor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (keep,) = ctx.saved_tensors
        return (gradients[0] * keep).mul_(ctx.factor), None, None


class _Table(torch.autograd.Function):
    """An embedding's weights as several look-ups share them: one gradient, of a whole table, for all of them.

    Stands for the weights in the graph with a single number, whose gradient comes after those of all look-ups.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, padding: int, seen: list[tuple[Tensor, Tensor]]) -> Tensor:
        ctx.rows, ctx.padding, ctx.seen = len(weight), padding, seen
        return weight.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *_gradients: Tensor) -> tuple[Tensor, None, None]:
        ids, gradients = (torch.cat(parts) for parts in zip(*ctx.seen, strict=True))
        ctx.seen.clear()
        return torch.ops.aten.embedding_dense_backward(gradients, ids, ctx.rows, ctx.padding, False), None, None


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, weight: Tensor, ids: Tensor, seen: list[tuple[Tensor, Tensor]]) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.seen, ctx.zero = seen, torch.zeros_like(table)
        return torch.embedding(weight, ids)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (ids,) = ctx.saved_tensors
        ctx.seen.append((ids.flatten(), gradients[0].flatten(0, -2)))
        return ctx.zero, None, None, None


class _Attention(torch.autograd.Function):
    """``dropout(softmax(scale Q K^T + mask)) V``: keeps probabilities and dropout's mask, in the run's precision."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scale: float,
        keep: Tensor | None,
        factor: float,
    ) -> Tensor:
        scores = (query * scale) @ key.mT  # (B, A, T, T)
        if mask is not None and mask.dtype is torch.bool:
            # The lowest number, not -inf: a row without any key stays finite.
            mask = torch.zeros_like(mask, dtype=scores.dtype).masked_fill_(~mask, torch.finfo(scores.dtype).min)
        elif mask is not None:
            # float32's lowest number would be -inf in bf16.
            mask = mask.to(scores.dtype).clamp(min=torch.finfo(scores.dtype).min)
        if mask is not None:
            scores += mask
        weights = scores.softmax(dim=-1)
        ctx.save_for_backward(query, key, value, weights, keep)
        ctx.scale, ctx.factor = scale, factor
        return (_kept(weights, keep) @ value).mul_(factor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, weights, keep = ctx.saved_tensors
        gradient = gradients[0] * ctx.factor
        to_value = _kept(weights, keep).mT @ gradient
        to_weights = gradient @ value.mT
        if keep is not None:
            to_weights.mul_(keep)
        to_scores = torch._softmax_backward_data(to_weights, weights, -1, weights.dtype)
        to_query, to_key = (to_scores @ key).mul_(ctx.scale), (to_scores.mT @ query).mul_(ctx.scale)
        return to_query, to_key, to_value, None, None, None, None


def _kept(weights: Tensor, keep: Tensor | None) -> Tensor:
    return weights if keep is None else weights * keep
