"""Hidden states and attention scores of chosen layers, seen while the model runs its own fast attention kernel."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from hrkd_cli.errors import ModelError
from hrkd_cli.models.encoding import Batch
from hrkd_cli.models.sizes import sizes_of

_NAME = "hrkd_capture"  # of the attention function
_SEEN: ContextVar[list[tuple[Tensor, Tensor]]] = ContextVar("seen")


@dataclass(frozen=True, slots=True)
class Captured:
    """What one forward pass shows.

    Attributes:
        logits: (B, outputs).
        hidden: for the embedding and each chosen layer, (B, T, width).
        queries: for each chosen layer, (B, A, T, head width); empty when attention was not asked for. The product with
            ``keys`` gives the scores: query is already divided by sqrt(head width).
        keys: as ``queries``.
    """

    logits: Tensor
    hidden: list[Tensor]
    queries: list[Tensor]
    keys: list[Tensor]

    def scores(self) -> list[Tensor]:
        """Return attention scores before softmax of each chosen layer, (B, A, T, T), queries by keys."""
        return [query @ key.transpose(-1, -2) for query, key in zip(self.queries, self.keys, strict=True)]


class Capture:
    """Runs a classifier and keeps what distillation compares.

    Args:
        model: a transformers sequence classifier.
        layers: 1-based numbers of the layers to look at; empty for logits only.
        attention: whether queries and keys are wanted.

    Raises:
        ModelError: the model's attention cannot be seen.
    """

    def __init__(self, model: nn.Module, layers: Sequence[int], *, attention: bool) -> None:
        self.model = model
        self.layers = tuple(layers)
        self.attention = attention and bool(layers)
        config: Any = model.config
        self.sizes = sizes_of(config)
        self.kind = str(config.model_type)

    def __call__(self, batch: Batch) -> Captured:
        """Run one batch.

        Raises:
            ModelError: the architecture does not show its attention.
        """
        if not self.layers:
            return Captured(self.model(**batch.inputs).logits, [], [], [])
        with self._watching() as seen:
            output = self.model(**batch.inputs, output_hidden_states=True)
        hidden = [output.hidden_states[n] for n in (0, *self.layers)]
        if not self.attention:
            return Captured(output.logits, hidden, [], [])
        if len(seen) != self.sizes.layers:
            raise ModelError(
                f"the attention scores of a {self.kind} model cannot be seen; distil it with --attention-weight 0 or "
                "--method logits"
            )
        chosen = [seen[n - 1] for n in self.layers]
        return Captured(output.logits, hidden, [q for q, _ in chosen], [k for _, k in chosen])

    @contextlib.contextmanager
    def _watching(self) -> Iterator[list[tuple[Tensor, Tensor]]]:
        """Collect (scaled query, key) of every layer that runs inside the context, in order."""
        seen: list[tuple[Tensor, Tensor]] = []
        if not self.attention:
            yield seen
            return
        config: Any = self.model.config
        before, token = config._attn_implementation, _SEEN.set(seen)
        config._attn_implementation = _NAME
        try:
            yield seen
        finally:
            config._attn_implementation = before
            _SEEN.reset(token)


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Note queries and keys, (B, A, T, d), and run torch's fast kernel (transformers' attention interface)."""
    scale = options.get("scaling")
    _SEEN.get().append((query * (query.shape[-1] ** -0.5 if scale is None else scale), key))
    output: Tensor = sdpa_attention_forward(module, query, key, value, attention_mask, **options)[0]
    return output, None


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, sdpa_mask)


def layer_map(teacher_layers: int, student_layers: int) -> tuple[int, ...]:
    """Return m(l) for l = 1..L: the teacher layer (1-based) that student layer l learns from.

    ``m(l) = l N / L``, rounded half up.
    """
    return tuple(
        (2 * n * teacher_layers + student_layers) // (2 * student_layers) for n in range(1, student_layers + 1)
    )


def select_columns(logits: Tensor, columns: Sequence[int]) -> Tensor:
    """Return one domain's logits (B, C) out of all outputs (B, outputs)."""
    first, last = columns[0], columns[-1]
    if list(columns) == list(range(first, last + 1)):
        return logits[:, first : last + 1]
    return logits[:, torch.tensor(columns, device=logits.device)]
