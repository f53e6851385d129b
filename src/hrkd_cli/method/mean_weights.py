"""Weights of rows, tokens and query-key pairs in the means of their domain."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class MeanWeights:
    """Weight of each row, token and query-key pair in its domain's means, for R rows padded to T tokens.

    They are known before anything runs (they depend on lengths, and on weights of single rows where there are some), so
    the losses of a part of a step's rows add up with those of the other parts to the losses of the whole step. With
    weights of single rows, each of them is the row's weight over the domain's sum of weights times rows, tokens or
    pairs.

    Attributes:
        domains: (D, R), 1 where the row is of the domain.
        rows: (R,), 1 / rows of the row's domain.
        tokens: (R, T), 1 / tokens of the domain; 0 at tokens that do not count.
        pairs: (R,), 1 / query-key pairs of the domain.
        queries: (R, T), true at tokens that count, also as queries; None where all do.
        keys: (R, T), true at keys that are not padding; None where none is.
    """

    domains: Tensor
    rows: Tensor
    tokens: Tensor
    pairs: Tensor
    queries: Tensor | None
    keys: Tensor | None

    def by_domain(self, values: Tensor) -> Tensor:
        """Add up values of rows, (..., R), by domain: (..., D)."""
        return values @ self.domains.T
