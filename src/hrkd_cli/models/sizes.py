"""Layers, width and heads of a model, whatever its architecture calls them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hrkd_cli.errors import ModelError


@dataclass(frozen=True, slots=True)
class Sizes:
    """Transformer layers, width of the hidden states, attention heads of a layer."""

    layers: int
    width: int
    heads: int


def sizes_of(config: Any) -> Sizes:
    """Read the sizes of a transformers config, which has them by these names in every architecture.

    Raises:
        ModelError: the architecture is not one of an encoder that has them.
    """
    try:
        return Sizes(int(config.num_hidden_layers), int(config.hidden_size), int(config.num_attention_heads))
    except AttributeError as error:
        raise ModelError(f"a {config.model_type} model cannot be distilled: {error}") from None
