"""Attention function of models in training, with fast CPU kernels for attention and dropout.

``attention_forward`` is registered with transformers and used by every model whose attention goes through its
interface. It records queries and keys inside ``record_attention()`` and otherwise is SDPA.

Inside ``FastCpuOps``, attention and dropout on a CPU use kernels of this module, with the same mathematics but other
random masks. Torch draws dropout masks on a CPU one number at a time, and splits attention with dropout into a dozen
passes over float32 scores. Here random bits come from a vectorized generator (SFC64), seeded from torch's random state
so that a resumed run draws the same masks, and attention keeps its scores in the run's precision.
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

from hrkd_cli.models.loading import quiet_libraries

NAME = "hrkd"

_MAX_KEPT_SCORES = 512  # tokens up to which attention without dropout keeps its T x T scores
_STREAMS = 2  # streams of random numbers; fixed, so that masks do not depend on the number of threads
_MIN_PARALLEL_SIZE = 2**19  # size of a mask from which each stream has its own thread
_LEVELS = 2**16  # dropout probabilities are multiples of 1/_LEVELS

AttentionCalls = list[tuple[Tensor, Tensor, float]]  # query, key and scale of each call
_calls: ContextVar[AttentionCalls | None] = ContextVar("calls", default=None)
_fast: ContextVar[FastCpuOps | None] = ContextVar("fast", default=None)


def use_training_kernels(model: nn.Module) -> None:
    """Make a model's attention and dropout use this module; this is not saved with the model.

    An architecture whose attention does not use transformers' interface keeps its own attention.
    """
    with quiet_libraries():
        model.set_attn_implementation(NAME)  # type: ignore[operator]
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.__class__ = _FastDropout


@contextmanager
def record_attention() -> Iterator[AttentionCalls]:
    """Yield a list that receives query, key and scale of every attention call in the block."""
    calls: AttentionCalls = []
    token = _calls.set(calls)
    try:
        yield calls
    finally:
        _calls.reset(token)


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
    """Return the attention output, (R, T, A, d), with the arguments of transformers' attention functions."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    calls, fast = _calls.get(), _fast.get()
    if calls is not None:
        calls.append((query, key, scale))
    causal = kwargs.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    supported = (
        not causal and kwargs.get("position_bias") is None and query.shape[:2] == key.shape[:2] == value.shape[:2]
    )
    mask_trainable = attention_mask is not None and attention_mask.requires_grad
    # Without dropout, torch's kernel takes twice as long if gradients are needed.
    needs_grad = torch.is_grad_enabled() and query.requires_grad and key.shape[-2] <= _MAX_KEPT_SCORES
    if fast is not None and supported and not mask_trainable and _on_cpu(query) and (0 < dropout < 1 or needs_grad):
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


class FastCpuOps:
    """Context of a step, in which models changed by ``use_training_kernels`` use the fast CPU kernels."""

    def __init__(self) -> None:
        self.streams: list[np.random.SFC64] = []  # seeded from torch's random state when first used
        self._threads = ThreadPoolExecutor(_STREAMS)  # starts threads only when needed

    def __enter__(self) -> FastCpuOps:
        self._token = _fast.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        _fast.reset(self._token)
        self._threads.shutdown()

    def dropout_mask(self, shape: torch.Size, probability: float, dtype: torch.dtype) -> tuple[Tensor, float]:
        """Return a dropout mask, 1 for kept values and 0 for dropped ones, and the factor that keeps the mean."""
        if not self.streams:
            seeds = np.random.SeedSequence(int(torch.randint(2**62, ()).item())).spawn(_STREAMS)
            self.streams = [np.random.SFC64(seed) for seed in seeds]
        dropped = min(round(probability * _LEVELS), _LEVELS - 1)
        keep = torch.empty(shape.numel(), dtype=dtype)
        parts = keep.tensor_split(_STREAMS)
        # Four draws of 16 bits from each 64-bit number.
        sizes = [-(-len(part) // 4) for part in parts]
        parallel = torch.get_num_threads() > 1 and len(keep) >= _MIN_PARALLEL_SIZE
        draw = self._threads.map if parallel else map
        raw = draw(lambda stream, size: stream.random_raw(size), self.streams, sizes)
        for part, numbers in zip(parts, raw, strict=True):
            # The comparison writes numbers, because torch is slow to convert bool to bf16.
            bits = torch.from_numpy(numbers.view(np.int16))[: len(part)]
            torch.ge(bits, dropped - _LEVELS // 2, out=part)
        return keep.view(shape), _LEVELS / (_LEVELS - dropped)

    def attention(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, dropout: float
    ) -> Tensor:
        """Return ``dropout(softmax(scale Q K^T + mask)) V``, (R, A, T, d) like Q, K and V."""
        if torch.is_autocast_enabled("cpu"):
            query, key, value = (t.to(torch.get_autocast_dtype("cpu")) for t in (query, key, value))
        keep, factor = None, 1.0
        if dropout:
            keep, factor = self.dropout_mask(torch.Size((*query.shape[:3], key.shape[2])), dropout, query.dtype)
        with torch.autocast("cpu", enabled=False):
            output: Tensor = _Attention.apply(query, key, value, mask, scale, keep, factor)  # type: ignore[no-untyped-call]
        return output


class _Attention(torch.autograd.Function):
    """``dropout(softmax(scale Q K^T + mask)) V``; saves probabilities and dropout mask in the run's precision."""

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
            # The lowest number instead of -inf, so that a row without any key stays finite.
            mask = torch.zeros_like(mask, dtype=scores.dtype).masked_fill_(~mask, torch.finfo(scores.dtype).min)
        elif mask is not None:
            # float32's lowest number would be -inf in bf16.
            mask = mask.to(scores.dtype).clamp(min=torch.finfo(scores.dtype).min)
        if mask is not None:
            scores += mask
        weights = scores.softmax(dim=-1)
        ctx.save_for_backward(query, key, value, weights, keep)
        ctx.scale, ctx.factor = scale, factor
        return (_apply_mask(weights, keep) @ value).mul_(factor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, weights, keep = ctx.saved_tensors
        gradient = gradients[0] * ctx.factor
        to_value = _apply_mask(weights, keep).mT @ gradient
        to_weights = gradient @ value.mT
        if keep is not None:
            to_weights.mul_(keep)
        to_scores = torch._softmax_backward_data(to_weights, weights, -1, weights.dtype)
        to_query, to_key = (to_scores @ key).mul_(ctx.scale), (to_scores.mT @ query).mul_(ctx.scale)
        return to_query, to_key, to_value, None, None, None, None


def _apply_mask(weights: Tensor, keep: Tensor | None) -> Tensor:
    return weights if keep is None else weights * keep
