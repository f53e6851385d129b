"""Queries and keys of a frozen model's layers, from the hidden states that enter them.

So that the latter are all that has to be kept: two matrix products instead of two more tensors on disk.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hrkd_cli.model.capture import Captured, query_key_modules

TOLERANCE = 1e-3  # relative, of what is computed anew against what the model itself used


class QueryKeys:
    """The query and key projections of some layers, as one matrix product a layer.

    Args:
        projections: (query, key) of each layer.
        heads: A.
        dtype: type of the product's numbers.
    """

    def __init__(self, projections: Sequence[tuple[nn.Linear, nn.Linear]], heads: int, dtype: torch.dtype) -> None:
        self.heads = heads
        self.weights, self.biases = [], []
        for query, key in projections:
            scale = (query.out_features // heads) ** -0.5
            weight = torch.cat([query.weight * scale, key.weight])
            bias = [
                torch.zeros_like(linear.weight[:, 0]) if linear.bias is None else linear.bias for linear in (query, key)
            ]
            self.weights.append(weight.detach().to(dtype))
            self.biases.append(torch.cat([bias[0] * scale, bias[1]]).detach().to(dtype))

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
        exact = cls(chosen, heads, torch.float32)
        for number, entering in enumerate(seen.entering):
            if entering.shape[-1] != chosen[number][0].in_features:
                return None
            for one, other in zip(exact(number, entering), (seen.queries[number], seen.keys[number]), strict=True):
                if one.shape != other.shape or float((one - other).norm()) > TOLERANCE * float(other.norm()):
                    return None
        return cls(chosen, heads, dtype)

    def __call__(self, number: int, entering: Tensor) -> tuple[Tensor, Tensor]:
        """Return queries (divided by sqrt(d)) and keys, (R, A, T, d) each, of the ``number``-th chosen layer.

        Args:
            number: 0-based, among the chosen ones.
            entering: (R, T, width).
        """
        weight = self.weights[number]
        both = F.linear(entering.to(weight.dtype), weight, self.biases[number])
        query, key = both.view(*both.shape[:2], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        return query, key
