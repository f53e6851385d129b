"""Hidden states and attention scores of chosen layers, seen while the model runs its own fast attention kernel."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hrkd_cli.errors import ModelError
from hrkd_cli.models.encoding import Batch
from hrkd_cli.models.sizes import sizes_of

# Names of the query and key projections in models that have no fast attention kernel in this transformers version.
PROJECTIONS = (("query", "key"), ("q_lin", "k_lin"), ("q", "k"))


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
        self.fast = getattr(config, "_attn_implementation", None) == "sdpa"

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
        elif self.fast:
            with _SeeAttention(seen):
                yield seen
        else:
            handles = self._hook_projections(seen)
            try:
                yield seen
            finally:
                for handle in handles:
                    handle.remove()

    def _hook_projections(self, seen: list[tuple[Tensor, Tensor]]) -> list[Any]:
        handles = []
        pending: list[Tensor] = []

        def split(states: Tensor) -> Tensor:  # (B, T, A x d) -> (B, A, T, d)
            return states.view(*states.shape[:2], self.sizes.heads, -1).transpose(1, 2)

        def on_query(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            query = split(output)
            pending.append(query * query.shape[-1] ** -0.5)

        def on_key(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            seen.append((pending.pop(), split(output)))

        for query, key in query_key_modules(self.model):
            handles += [query.register_forward_hook(on_query), key.register_forward_hook(on_key)]
        return handles


class _SeeAttention(TorchFunctionMode):
    """Notes the arguments of every fast attention call and lets it run.

    One mechanism for every architecture and transformers line: whatever a model does to its queries and keys (rotary
    positions, fused projections), this is the last place they pass before softmax.
    """

    def __init__(self, seen: list[tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(
        self, func: Callable[..., Any], _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            query, key = (args[i] if len(args) > i else kwargs[name] for i, name in enumerate(("query", "key")))
            scale = kwargs.get("scale")
            self.seen.append((query * (query.shape[-1] ** -0.5 if scale is None else scale), key))
        return func(*args, **kwargs)


def query_key_modules(model: nn.Module) -> list[tuple[nn.Linear, nn.Linear]]:
    """Return the query and key projections of each layer, in order; empty where they go by names unknown here."""
    found = []
    for module in model.modules():
        for query_name, key_name in PROJECTIONS:
            query, key = getattr(module, query_name, None), getattr(module, key_name, None)
            if isinstance(query, nn.Linear) and isinstance(key, nn.Linear):
                found.append((query, key))
    return found


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
