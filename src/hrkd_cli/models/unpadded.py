"""Rows side by side, without padding: a model runs on the tokens alone, and only attention sees rows.

Everything but attention looks at one token at a time, so the rows of a batch can be one long row of N tokens. Attention
itself runs on groups of rows of similar length, padded to the longest of each. A model takes part when it accepts
position numbers and shows, on made-up rows, the numbers that it shows on padded ones (``SideBySide.find``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

TOLERANCE = 1e-4  # relative, of hidden states side by side against padded ones, in float32
LONGEST_TABLE = 4096  # positions of a model up to which it is tried out; the trial runs more tokens than that
_TRIAL_LENGTHS = (48, 3, 31, 64, 1)


@dataclass(frozen=True, slots=True)
class Group:
    """Neighbouring rows that attention sees as one padded batch, R rows of T tokens.

    Attributes:
        rows: which of the layout's rows.
        tokens: which of the layout's tokens.
        length: T.
        mask: (R, T), true at tokens; None where there is no padding.
        gather: (R T,), the group's token at each place, at padding the row's last; None where there is no padding.
        places: (tokens,), the place of each token; None where there is no padding.
    """

    rows: slice
    tokens: slice
    length: int
    mask: Tensor | None
    gather: Tensor | None
    places: Tensor | None

    @property
    def count(self) -> int:
        """R."""
        return int(self.rows.stop) - int(self.rows.start)

    def pad(self, states: Tensor) -> Tensor:
        """Return the group's part of (N, width) as (R, T, width); padding repeats a token."""
        own = states[self.tokens]
        own = own if self.gather is None else own.index_select(0, self.gather)
        return own.view(self.count, self.length, -1)

    def pad_heads(self, states: Tensor) -> Tensor:
        """Return the group's part of (L, 1, A, N, d) as (L, R, A, T, d); padding repeats a token."""
        own = states[:, 0, :, self.tokens]  # (L, A, tokens, d)
        own = own if self.gather is None else own.index_select(2, self.gather)
        layers, heads, _, width = own.shape
        return own.reshape(layers, heads, self.count, self.length, width).transpose(1, 2)

    def unpad(self, states: Tensor, out: Tensor) -> None:
        """Write (R, T, width) to the group's part of ``out``, (N, width)."""
        flat = states.reshape(self.count * self.length, -1)
        if self.places is None:
            out[self.tokens] = flat
        else:
            torch.index_select(flat, 0, self.places, out=out[self.tokens])


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the rows of a batch, none of them empty, are among its N tokens.

    Attributes:
        lengths: (R,), tokens of each row.
        groups: of the rows, in order.
        firsts: (R,), each row's first token.
    """

    lengths: np.ndarray
    groups: tuple[Group, ...]
    firsts: Tensor

    @classmethod
    def of(cls, lengths: np.ndarray, sizes: Sequence[int]) -> Layout:
        """Lay rows out on the CPU.

        Args:
            lengths: tokens of each row, at least one.
            sizes: rows of each group.
        """
        starts = np.concatenate([[0], np.cumsum(lengths)])
        groups, row = [], 0
        for size in sizes:
            rows = slice(row, row + size)
            tokens = slice(int(starts[row]), int(starts[row + size]))
            own, begin = lengths[rows], starts[rows] - starts[row]
            longest = int(own.max())
            valid = np.arange(longest) < own[:, None]
            mask = gather = places = None
            if not valid.all():
                mask = torch.from_numpy(valid)
                gather = torch.from_numpy((begin[:, None] + np.minimum(np.arange(longest), own[:, None] - 1)).ravel())
                places = torch.from_numpy(np.flatnonzero(valid))
            groups.append(Group(rows, tokens, longest, mask, gather, places))
            row += size
        return cls(lengths, tuple(groups), torch.from_numpy(starts[:-1].copy()))

    @property
    def tokens(self) -> int:
        """N."""
        return int(self.groups[-1].tokens.stop)

    def positions(self) -> np.ndarray:
        """Return each token's place in its row, (N,)."""
        return np.concatenate([np.arange(length) for length in self.lengths])


class Unpadded(TorchFunctionMode):
    """Inside it a model that is given one row of N tokens treats them as the rows of a layout.

    Attention (torch's ``scaled_dot_product_attention``) runs group by group, and the first token that a classifier's
    head takes (``states[:, 0]``) is that of every row.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout

    def __torch_function__(
        self, func: Callable[..., Any], _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
            return self._attend(func, dict(zip(names, args, strict=False)) | kwargs)
        if func is Tensor.__getitem__ and self._takes_first(*args):
            return args[0][0].index_select(0, self.layout.firsts)
        return func(*args, **kwargs)

    def _takes_first(self, states: Tensor, index: Any) -> bool:
        if not isinstance(index, tuple) or len(index) < 2 or type(index[1]) is not int or index[1] != 0:
            return False
        whole = all(part == slice(None) for part in (index[0], *index[2:]))
        return whole and states.dim() == 3 and states.shape[:2] == (1, self.layout.tokens)

    def _attend(self, attention: Callable[..., Tensor], given: dict[str, Any]) -> Tensor:
        if given.get("attn_mask") is not None or given.get("is_causal"):
            raise ValueError("attention with a mask of its own cannot run side by side")
        groups = self.layout.groups
        query, key, value = (_Pad.apply(given[name], groups) for name in ("query", "key", "value"))  # type: ignore[no-untyped-call]
        found = []
        for group, *own in zip(groups, query, key, value, strict=True):
            mask = None if group.mask is None else group.mask[:, None, None, :]
            rest = {name: value for name, value in given.items() if name not in ("query", "key", "value")}
            found.append(attention(*own, **{**rest, "attn_mask": mask}))
        joined: Tensor = _Unpad.apply(groups, *found)  # type: ignore[no-untyped-call]
        return joined


class _Pad(torch.autograd.Function):
    """(1, A, N, d) to (R, A, T, d) of each group. Nothing may come of padding: its gradients are left out."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, groups: tuple[Group, ...]) -> tuple[Tensor, ...]:
        ctx.groups, ctx.shape = groups, states.shape
        flat = states.transpose(1, 2).flatten(2)[0]  # (N, A d)
        heads = states.shape[1]
        return tuple(_by_head(g.pad(flat), heads).contiguous() for g in groups)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _joined(ctx.groups, gradients), None


class _Unpad(torch.autograd.Function):
    """(R, A, T, d) of each group to (1, A, N, d)."""

    @staticmethod
    def forward(ctx: Any, groups: tuple[Group, ...], *states: Tensor) -> Tensor:
        ctx.groups = groups
        return _joined(groups, states)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        heads = gradients[0].shape[1]
        flat = gradients[0].transpose(1, 2).flatten(2)[0]  # (N, A d)
        found = []
        for group in ctx.groups:
            own = group.pad(flat)
            if group.mask is not None:
                own.mul_(group.mask[:, :, None].to(own.dtype))
            found.append(_by_head(own, heads))
        return None, *found


def _by_head(states: Tensor, heads: int) -> Tensor:
    """Return (R, T, A d) as (R, A, T, d)."""
    return states.view(*states.shape[:2], heads, -1).transpose(1, 2)


def _joined(groups: tuple[Group, ...], states: Sequence[Tensor]) -> Tensor:
    """Return (1, A, N, d) of each group's (R, A, T, d)."""
    heads, width = states[0].shape[1], states[0].shape[3]
    found = states[0].new_empty(groups[-1].tokens.stop, heads * width)
    for group, own in zip(groups, states, strict=True):
        group.unpad(own.transpose(1, 2), found)
    return found.view(1, -1, heads, width).transpose(1, 2)


@dataclass(frozen=True, slots=True)
class SideBySide:
    """How a model takes rows side by side.

    Attributes:
        first: number of a row's first position.
        types: whether it takes token type ids.
    """

    first: int
    types: bool

    @classmethod
    def find(cls, model: nn.Module) -> SideBySide | None:
        """Try a classifier on made-up rows; None where it does not show what it shows on padded ones.

        Args:
            model: on the CPU, in float32; left as it was.
        """
        config: Any = model.config
        taken = signature(model.forward).parameters
        table = int(getattr(config, "max_position_embeddings", 0) or 0)
        fast = getattr(config, "_attn_implementation", None) == "sdpa"
        windows = any(getattr(config, name, None) for name in ("sliding_window", "local_attention"))
        if not fast or windows or "position_ids" not in taken or not 0 < table <= LONGEST_TABLE:
            return None
        pad = getattr(config, "pad_token_id", None)
        pad = 0 if pad is None else int(pad)
        training = model.training
        model.eval()
        try:
            # RoBERTa and its kin count from behind the padding token's number.
            for first in dict.fromkeys((0, pad + 1)):
                found = cls(first, "token_type_ids" in taken)
                if found._fits(model, table, pad):
                    return found
        finally:
            model.train(training)
        return None

    def inputs(self, ids: np.ndarray, types: np.ndarray | None, layout: Layout) -> dict[str, Tensor]:
        """Return what the model's forward takes.

        Args:
            ids: (N,), token ids.
            types: (N,), token type ids; None for zeros.
            layout: of the rows.
        """
        arrays = {"input_ids": ids, "position_ids": self._positions(ids, layout)}
        if self.types:
            arrays["token_type_ids"] = np.zeros_like(ids) if types is None else types
        return {name: torch.from_numpy(array.astype(np.int64))[None] for name, array in arrays.items()}

    def _positions(self, ids: np.ndarray, layout: Layout) -> np.ndarray:
        """Return each token's position, (N,)."""
        if not self.first:
            return layout.positions()
        # RoBERTa counts what is not the padding token, which a text may name, too.
        counts = np.concatenate([[0], np.cumsum(ids != self.first - 1)])
        before = np.repeat(counts[layout.firsts.numpy()], layout.lengths)
        return np.where(ids != self.first - 1, counts[1:] - before + self.first - 1, self.first - 1)

    @torch.no_grad()
    def _fits(self, model: nn.Module, table: int, pad: int) -> bool:
        config: Any = model.config
        # More tokens than the model has positions: none may be numbered by its place in the batch.
        lengths = np.minimum(_TRIAL_LENGTHS, max(1, table - pad - 1))
        lengths = np.tile(lengths, table // int(lengths.sum()) + 1)
        layout = Layout.of(lengths, [len(lengths)])
        ids = np.random.RandomState(1).randint(0, config.vocab_size, layout.tokens)
        ids[ids == pad] = (pad + 1) % config.vocab_size
        valid = np.arange(lengths.max()) < lengths[:, None]
        whole = np.full(valid.shape, pad)
        whole[valid] = ids
        padded = {"input_ids": torch.from_numpy(whole), "attention_mask": torch.from_numpy(valid.astype(np.int64))}
        with torch.autocast("cpu", enabled=False):
            try:
                wanted = model(**padded, output_hidden_states=True)
                with Unpadded(layout):
                    found = model(**self.inputs(ids, None, layout), output_hidden_states=True)
            except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
                return False  # a model of its own mind
        cells = torch.from_numpy(valid)
        pairs = [(found.logits, wanted.logits)]
        for beside, apart in zip(found.hidden_states, wanted.hidden_states, strict=True):
            pairs.append((beside[0], apart[cells]))
        return all(a.shape == b.shape and float((a - b).norm()) <= TOLERANCE * float(b.norm()) for a, b in pairs)
