"""The attention function of our models in training, and dropout and embeddings as a CPU trains them fast.

Registered with transformers: models whose attention uses its interface call ``attention_forward``, which hands queries
and keys to a recorder, if there is one, and otherwise is SDPA.

On a CPU, inside ``FastCpuOps``, attention, dropout and embeddings run by own kernels, with the same mathematics and
other random masks. Torch draws dropout masks on a CPU one number after the other, and splits attention with dropout
into a dozen passes over float32 scores. Here random bits come from a vectorized generator (SFC64), seeded from torch's
own random state so that a resumed run draws the same, and attention keeps its scores in the precision of the run. An
embedding that several pieces of a step look into gets one gradient for all: each of its own would be as large as the
table.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from hrkd_cli.models.loading import quiet_transformers

NAME = "hrkd"

_LONGEST = 512  # tokens up to which attention without dropout keeps its T x T scores
_STREAMS = 2  # of random numbers, always as many: masks do not depend on how many threads there are
_WORTH_THREADS = 2**19  # numbers in a mask from which the streams are drawn in threads of their own
_LEVELS = 2**16  # a mask's share is a multiple of 1/_LEVELS

Record = list[tuple[Tensor, Tensor, float]]
_record: ContextVar[Record | None] = ContextVar("record", default=None)
_fast: ContextVar[FastCpuOps | None] = ContextVar("fast", default=None)


def use_training_kernels(model: nn.Module) -> None:
    """Let a model's attention, dropout and embeddings run through this module; nothing of it is saved with the model.

    An architecture whose attention does not go through transformers' interface keeps its own.
    """
    with quiet_transformers():
        model.set_attn_implementation(NAME)  # type: ignore[operator]
    for module in model.modules():
        own = {nn.Dropout: _FastDropout, nn.Embedding: _SharedEmbedding}.get(type(module))
        if own is not None:
            module.__class__ = own


@contextmanager
def record_attention() -> Iterator[Record]:
    """Record (query, key, scale) of every attention call inside, in order."""
    found: Record = []
    token = _record.set(found)
    try:
        yield found
    finally:
        _record.reset(token)


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Return attention, (R, T, A, d); arguments and result are those of transformers' own attention functions."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    record, fast = _record.get(), _fast.get()
    if record is not None:
        record.append((query, key, scale))
    causal = kwargs.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    plain = not causal and kwargs.get("position_bias") is None and query.shape[:2] == key.shape[:2] == value.shape[:2]
    mask_trained = attention_mask is not None and attention_mask.requires_grad
    # Without dropout torch's kernel takes twice as long as ours where a gradient is to come.
    trained = torch.is_grad_enabled() and query.requires_grad and key.shape[-2] <= _LONGEST
    if fast is not None and plain and not mask_trained and _on_cpu(query) and (0 < dropout < 1 or trained):
        return fast.attention(query, key, value, attention_mask, scale, dropout).transpose(1, 2).contiguous(), None
    options = {"dropout": dropout, "scaling": scaling, **kwargs}
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)[0], None


AttentionInterface.register(NAME, attention_forward)
AttentionMaskInterface.register(NAME, sdpa_mask)


def _on_cpu(values: Tensor) -> bool:
    return values.device.type == "cpu" and values.is_floating_point() and values.numel() > 0


class _FastDropout(nn.Dropout):
    def forward(self, values: Tensor) -> Tensor:
        fast = _fast.get()
        if fast is None or not (self.training and 0 < self.p < 1 and not self.inplace and _on_cpu(values)):
            return super().forward(values)
        keep, factor = fast.dropout_mask(values.shape, self.p, values.dtype)
        return (values * keep).mul_(factor)


class _SharedEmbedding(nn.Embedding):
    def forward(self, ids: Tensor) -> Tensor:
        fast, weight = _fast.get(), self.weight
        trained = torch.is_grad_enabled() and weight.requires_grad and _on_cpu(weight)
        if fast is None or not trained or self.max_norm or self.scale_grad_by_freq or self.sparse:
            return super().forward(ids)
        return fast.embedding(ids, weight, self.padding_idx)


class FastCpuOps:
    """A context, of a step: inside it models that ``use_training_kernels`` changed run on a CPU as described above."""

    def __init__(self) -> None:
        self.streams: list[np.random.SFC64] = []  # seeded from torch's random state when first used
        self.tables: dict[int, tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]] = {}
        self._threads = ThreadPoolExecutor(_STREAMS)  # none is started before it has work

    def __enter__(self) -> FastCpuOps:
        self._token = _fast.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        _fast.reset(self._token)
        self._threads.shutdown()

    def dropout_mask(self, shape: torch.Size, share: float, dtype: torch.dtype) -> tuple[Tensor, float]:
        """Return a dropout mask, 1 at what is kept and else 0, and the factor that makes up for what is not."""
        if not self.streams:
            seeds = np.random.SeedSequence(int(torch.randint(2**62, ()).item())).spawn(_STREAMS)
            self.streams = [np.random.SFC64(seed) for seed in seeds]
        dropped = min(round(share * _LEVELS), _LEVELS - 1)
        keep = torch.empty(shape.numel(), dtype=dtype)
        parts = keep.tensor_split(_STREAMS)
        # Four draws of 16 bits from each 64-bit number.
        sizes = [-(-len(part) // 4) for part in parts]
        at_once = torch.get_num_threads() > 1 and len(keep) >= _WORTH_THREADS
        draw = self._threads.map if at_once else map
        raw = draw(lambda stream, size: stream.random_raw(size), self.streams, sizes)
        for part, numbers in zip(parts, raw, strict=True):
            # Compared into numbers at once: torch is slow to turn truth values into bf16.
            bits = torch.from_numpy(numbers.view(np.int16))[: len(part)]
            torch.ge(bits, dropped - _LEVELS // 2, out=part)
        return keep.view(shape), _LEVELS / (_LEVELS - dropped)

    def embedding(self, ids: Tensor, weight: Tensor, padding: int | None) -> Tensor:
        """Return rows of an embedding table; its gradient is one for all look-ups of the step."""
        if id(weight) not in self.tables:
            seen: list[tuple[Tensor, Tensor]] = []
            own = -1 if padding is None else padding % len(weight)
            table: Tensor = _Table.apply(weight, own, seen)  # type: ignore[no-untyped-call]
            self.tables[id(weight)] = (weight, table, seen)  # the weights stay, and so does their id
        _, table, seen = self.tables[id(weight)]
        found: Tensor = _LookUp.apply(table, weight.detach(), ids, seen)  # type: ignore[no-untyped-call]
        return found

    def attention(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, share: float
    ) -> Tensor:
        """Return ``dropout(softmax(scale Q K^T + mask)) V``, (R, A, T, d) as all three."""
        if torch.is_autocast_enabled("cpu"):
            query, key, value = (t.to(torch.get_autocast_dtype("cpu")) for t in (query, key, value))
        keep, factor = None, 1.0
        if share:
            keep, factor = self.dropout_mask(torch.Size((*query.shape[:3], key.shape[2])), share, query.dtype)
        with torch.autocast("cpu", enabled=False):
            found: Tensor = _Attention.apply(query, key, value, mask, scale, keep, factor)  # type: ignore[no-untyped-call]
        return found


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
        scores = (query * scale) @ key.mT  # (R, A, T, T)
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
