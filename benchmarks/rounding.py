"""The arithmetic of an int8 file, simulated: dense layers and embeddings are rounded, gradients pass straight through.

What ``hrkd_cli.onnx_export.int8`` and ``tables`` write and onnxruntime carries out: weights of dense layers in signed
integers with a scale a column (or a matrix), each activation in 0..255 between its own extremes, each embedding table
in -128..127 between its own. A device runs one text at a time, so that an activation's extremes are those of one text's
valid tokens: here every row of a batch has its own, and padding has no part in them.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hrkd_cli.models.sizes import sizes_of

STEPS = 255  # of an activation or a table
LARGEST = 127  # absolute value of a weight; 64 where 7 bits are stored

_LAYER = re.compile(r"(?:^|\.)layers?\.(\d+)\.")
_QUERIES = frozenset({"query", "q_lin", "q"})
_KEYS = frozenset({"key", "k_lin", "k"})
_READ_ALL = _KEYS | {"value", "v_lin", "v"}


@dataclass(frozen=True, slots=True)
class _Dense:
    """How a dense layer is rounded.

    Attributes:
        by_token: whether each token's activation has extremes of its own.
        together: weights that are one matrix in the file, for a scale a matrix.
    """

    by_token: bool
    together: tuple[Tensor, ...]


class Rounding:
    """Rounds what a classifier computes, while it is on.

    Args:
        model: a transformers sequence classifier, on its device.
        per_channel: a scale a column of a dense weight; else one a matrix.
        largest: largest absolute value of a dense weight.
    """

    def __init__(self, model: nn.Module, *, per_channel: bool = True, largest: int = LARGEST) -> None:
        self.model = model
        self.per_channel = per_channel
        self.largest = largest
        self.mask: Tensor | None = None
        # By identity: a parameter stays the same object when it is loaded or stepped.
        self.tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        self.dense = _dense_layers(model)

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """Round in every forward pass inside the context; the weights themselves stay as they are."""
        handle = self.model.register_forward_pre_hook(self._note_mask, with_kwargs=True)
        try:
            with _Rounded(self):
                yield
        finally:
            handle.remove()
            self.mask = None

    def _note_mask(self, _module: nn.Module, _args: Any, inputs: Mapping[str, Any]) -> None:
        self.mask = inputs["attention_mask"].bool()

    def linear(self, states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return a dense layer's outputs [..., N], float32 arithmetic, in the type that they would have otherwise.

        Args:
            states: its inputs, [R, T, K] or [R, K].
            weight: [N, K].
            bias: [N].
        """
        kind = states.device.type
        wanted = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype
        with torch.autocast(kind, enabled=False):
            states = states.float()
            spec = self.dense[id(weight)]
            with torch.no_grad():
                low, high = self._extremes(states, by_token=spec.by_token)
                scale = self._scale(weight, spec)
            found: Tensor = _Product.apply(states, weight, low, high, scale)  # type: ignore[no-untyped-call]
            return (found if bias is None else found + bias).to(wanted)

    def _extremes(self, states: Tensor, *, by_token: bool) -> tuple[Tensor, Tensor]:
        """Return the range of each row, which includes 0, in a shape that broadcasts."""
        if states.dim() < 3 or by_token:
            low, high = states.aminmax(dim=-1, keepdim=True)
        else:
            assert self.mask is not None
            # Padding counts as 0, which is in every range.
            low, high = states.masked_fill(~self.mask[..., None], 0).flatten(1).aminmax(dim=1, keepdim=True)
            low, high = low[..., None], high[..., None]
        return low.clamp(max=0), high.clamp(min=0)

    def _scale(self, weight: Tensor, spec: _Dense) -> Tensor:
        """Return the scale of each column [N], or of the matrix []."""
        if self.per_channel:
            largest = weight.abs().amax(dim=1)
        else:
            largest = torch.stack([part.abs().amax() for part in spec.together]).amax()
        return torch.where(largest > 0, largest, 1) / self.largest


class _Rounded(TorchFunctionMode):
    """Sees every dense layer and lookup on its way, whatever the architecture's own code looks like."""

    def __init__(self, rounding: Rounding) -> None:
        super().__init__()
        self.rounding = rounding

    def __torch_function__(
        self, func: Callable[..., Any], _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        weight = args[1] if len(args) > 1 else kwargs.get("weight")
        if func is F.linear and id(weight) in self.rounding.dense:
            return self.rounding.linear(*args, **kwargs)
        found = func(*args, **kwargs)
        if func is F.embedding and id(weight) in self.rounding.tables:
            assert isinstance(weight, Tensor)
            return _round_found(found, weight.detach())
        return found


class _Product(torch.autograd.Function):
    """A product of integers, scaled: exact in float32, and in the 10 bits of a GPU's TF32 too."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, low: Tensor, high: Tensor, scale: Tensor) -> Tensor:
        step = (high - low) / STEPS
        step = torch.where(step > 0, step, 1)
        zero = (-low / step).clamp(0, STEPS).round()
        small = ((states / step).round() + zero).clamp(0, STEPS) - zero
        numbers = (weight / scale.unsqueeze(-1)).round()
        ctx.save_for_backward(small, step, numbers, scale)
        return F.linear(small, numbers) * (step * scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        small, step, numbers, scale = ctx.saved_tensors
        scaled = gradient * scale
        to_weight = gradient.flatten(0, -2).mT @ (small * step).flatten(0, -2)
        return scaled @ numbers, to_weight, None, None, None


class _Through(torch.autograd.Function):
    """Gives the second tensor, and its gradient to the first."""

    @staticmethod
    def forward(_ctx: Any, _exact: Tensor, rounded: Tensor) -> Tensor:
        return rounded

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def _round_found(found: Tensor, table: Tensor) -> Tensor:
    """Round what was looked up in a table by the table's extremes."""
    low, high = table.aminmax()
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = (high - low) / STEPS
    scale = torch.where(scale > 0, scale, 1)
    zero = (-low / scale).round() - 128
    small = ((found.detach() / scale).round() + zero).clamp(-128, 127) - zero
    return _Through.apply(found, small * scale)  # type: ignore[no-any-return, no-untyped-call]


def _dense_layers(model: nn.Module) -> dict[int, _Dense]:
    """Return how each dense layer is rounded, by the identity of its weight.

    Where queries, keys and values are layers of their own, an exported graph has one matrix for those that read the
    same tensor, and computes the last layer for the token that the head reads, keys and values apart: no other token
    has a part in the extremes there, so that each token is taken for it.
    """
    config: Any = model.config
    last = sizes_of(config).layers - 1
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    split = any(name.rpartition(".")[2] in _KEYS for name in linears)
    found = {}
    for name, module in linears.items():
        scope, _, own = name.rpartition(".")
        layer = _LAYER.search(name)
        is_last = layer is not None and int(layer[1]) == last
        merged = _READ_ALL if is_last else _READ_ALL | _QUERIES
        together = [module.weight]
        if own in merged:
            together = [
                linears[part].weight for part in sorted(f"{scope}.{part}" for part in merged) if part in linears
            ]
        found[id(module.weight)] = _Dense(split and is_last and own not in _READ_ALL, tuple(together))
    return found
