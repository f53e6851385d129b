"""Queries and keys of a frozen model's layers, from the hidden states that enter them.

So that the latter are all that has to be kept: two matrix products instead of two more tensors on disk.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hrkd_cli.models.capture import Captured, query_key_modules

TOLERANCE = 1e-3  # relative, of what is computed anew against what the model itself used


class QueryKeys:
    """The query and key projections of some layers, as one matrix product.

    Args:
        projections: (query, key) of each layer.
        heads: A.
        dtype: type of the product's numbers.
    """

    def __init__(self, projections: Sequence[tuple[nn.Linear, nn.Linear]], heads: int, dtype: torch.dtype) -> None:
        self.heads = heads
        weights, biases = [], []
        for query, key in projections:
            scale = (query.out_features // heads) ** -0.5
            weight = torch.cat([query.weight * scale, key.weight])
            bias = [
                torch.zeros_like(linear.weight[:, 0]) if linear.bias is None else linear.bias for linear in (query, key)
            ]
            weights.append(weight.detach().to(dtype))
            biases.append(torch.cat([bias[0] * scale, bias[1]]).detach().to(dtype))
        self.weight = torch.stack(weights).mT.contiguous()  # (L, width, 2 A d)
        self.bias = torch.stack(biases)[:, None, :]

    @classmethod
    def find(cls, model: nn.Module, layers: Sequence[int], seen: Captured, dtype: torch.dtype) -> QueryKeys | None:
        """Make them for a model in which they give what the model itself uses, as seen on a batch; else return None.

        Args:
            model: the frozen classifier.
            layers: 1-based numbers.
            seen: what a forward pass showed at those layers, in float32.
            dtype: type of the product's numbers later on.
        """
        found = query_key_modules(model)
        if not seen.queries or max(layers) > len(found):
            return None
        chosen = [found[n - 1] for n in layers]
        heads = seen.queries[0].shape[1]
        if any(linear.out_features % heads for pair in chosen for linear in pair):
            return None
        if any(states.shape[-1] != linear.in_features for states in seen.entering for linear in chosen[0]):
            return None
        exact = cls(chosen, heads, torch.float32)(torch.stack(seen.entering))
        for found_one, used in zip(exact, (torch.stack(seen.queries), torch.stack(seen.keys)), strict=True):
            if found_one.shape != used.shape or float((found_one - used).norm()) > TOLERANCE * float(used.norm()):
                return None
        return cls(chosen, heads, dtype)

    def __call__(self, entering: Tensor) -> tuple[Tensor, Tensor]:
        """Return queries (divided by sqrt(d)) and keys, (L, R, A, T, d) each, of the chosen layers.

        Args:
            entering: (L, R, T, width), what enters each of them.
        """
        layers, rows, tokens, _ = entering.shape
        both = torch.baddbmm(self.bias, entering.to(self.weight.dtype).flatten(1, 2), self.weight)
        query, key = both.view(layers, rows, tokens, 2, self.heads, -1).permute(3, 0, 1, 4, 2, 5)
        return query, key
