"""Domain-relational graph and hierarchical compare-aggregate (paper, sections 3.2 and 3.3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

XAVIER_GAIN = 1.414  # of the original graph attention code


@dataclass(frozen=True, slots=True)
class GraphRatios:
    """What the graph says.

    Attributes:
        domain: (L+1, D), weights of the domains at each student layer; each row sums to 1.
        layer: for each l = 1..L, (D, l+1), weights of a domain's prototypes at layers 0..l; empty without hierarchy.
    """

    domain: Tensor
    layer: tuple[Tensor, ...]


def drop(values: Tensor, share: float, generator: torch.Generator | None) -> Tensor:
    """Dropout with a random stream of its own: processes that share a run must drop the same."""
    if not share:
        return values
    kept = torch.rand(values.shape, generator=generator, device=values.device, dtype=values.dtype) >= share
    return values * kept / (1 - share)


class GraphAttention(nn.Module):
    """Several heads of graph attention over a complete graph with self-loops (Velickovic et al., 2018).

    ``e[i, j] = LeakyReLU(a_receiver . W h_i + a_neighbour . W h_j)``, softmax over the neighbours j, ELU on the output.
    """

    def __init__(self, width: int, out: int, *, heads: int, dropout: float, slope: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(heads, width, out))
        self.attention = nn.Parameter(torch.empty(heads, 2, out))  # 0: receiving node, 1: its neighbour
        self.dropout = dropout
        self.slope = slope
        for head in range(heads):
            nn.init.xavier_uniform_(self.weight.data[head], gain=XAVIER_GAIN)
            # The vector's fans are those of a (2 x out, 1) matrix.
            nn.init.xavier_uniform_(self.attention.data[head].view(2 * out, 1), gain=XAVIER_GAIN)

    def forward(self, nodes: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Map nodes (D, width) to (D, heads x out), heads side by side."""
        # (heads, D, out); einsum and matmul would copy the weight.
        features = torch.bmm(nodes.expand(len(self.weight), -1, -1), self.weight)
        receiver, neighbour = torch.einsum("gdo,gso->sgd", features, self.attention)  # each (heads, D)
        scores = F.leaky_relu(receiver[:, :, None] + neighbour[:, None, :], self.slope)  # (heads, D, D)
        weights = drop(scores.softmax(dim=-1), self.dropout if self.training else 0.0, generator)
        return F.elu(weights @ features).transpose(0, 1).flatten(1)  # (D, heads x out)


class DomainGraph(nn.Module):
    """One graph attention network a student layer, and the mixing of prototypes over layers.

    Args:
        width: H, width of the prototypes.
        layers: L, student layers; there are L+1 networks, one for the embedding output too.
        domains: D.
        hierarchy: whether prototypes are mixed over layers before the graph (section 3.3).
        heads: heads of the first attention layer.
        dropout: on the input, the attention weights and the concatenated features, in train mode.
        slope: negative slope of the LeakyReLU.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        domains: int,
        *,
        hierarchy: bool = True,
        heads: int = 8,
        dropout: float = 0.1,
        slope: float = 0.2,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.generator: torch.Generator | None = None  # of dropout; None for torch's own
        count = layers + 1
        self.hidden = nn.ModuleList(
            GraphAttention(width, width, heads=heads, dropout=dropout, slope=slope) for _ in range(count)
        )
        self.output = nn.ModuleList(
            GraphAttention(heads * width, 1, heads=1, dropout=dropout, slope=slope) for _ in range(count)
        )
        self.reference: nn.Parameter | None = None
        self.compare: nn.Parameter | None = None
        if hierarchy:
            # W1 and W2 for l = 1..L only: the embedding layer has nothing below it to be compared with.
            self.reference = nn.Parameter(torch.empty(layers, width, width))
            self.compare = nn.Parameter(torch.empty(layers, domains, width, width))
            for layer in range(layers):
                nn.init.xavier_uniform_(self.reference.data[layer], gain=XAVIER_GAIN)
                # One fan for the whole (D, H, H) block of a layer, as in the released code.
                nn.init.xavier_uniform_(self.compare.data[layer], gain=XAVIER_GAIN)

    def forward(self, prototypes: Tensor) -> GraphRatios:
        """Turn prototypes F (L+1, D, H) into domain and layer ratios."""
        domain, layer_ratios = [], []
        for layer, nodes in enumerate(prototypes):
            if layer and self.reference is not None and self.compare is not None:
                nodes, ratios = compare_aggregate(prototypes, layer, self.reference[layer - 1], self.compare[layer - 1])
                layer_ratios.append(ratios)
            share = self.dropout if self.training else 0.0
            features = self.hidden[layer](drop(nodes, share, self.generator), self.generator)  # (D, heads x H)
            scores = self.output[layer](drop(features, share, self.generator), self.generator)  # (D, 1)
            domain.append(scores.squeeze(-1).softmax(dim=0))
        return GraphRatios(torch.stack(domain), tuple(layer_ratios))


def compare_aggregate(prototypes: Tensor, layer: int, reference: Tensor, compare: Tensor) -> tuple[Tensor, Tensor]:
    """Compare and aggregate (section 3.3).

    Args:
        prototypes: (L+1, D, H).
        layer: l, at least 1.
        reference: W1 of this layer, (H, H).
        compare: W2 of this layer, (D, H, H).

    Returns:
        Mixed prototypes (D, H) and their weights (D, l+1).
    """
    own = prototypes[layer]  # (D, H)
    context = (own @ reference @ own.T).softmax(dim=-1) @ own  # R: (D, H)
    below = prototypes[: layer + 1]  # (l+1, D, H); the unmixed prototypes, also where layers below were mixed
    wanted = torch.einsum("dhk,dk->dh", compare, context)  # W2_d R_d
    ratios = torch.einsum("jdh,dh->dj", below, wanted).softmax(dim=-1)  # (D, l+1)
    return torch.einsum("dj,jdh->dh", ratios, below), ratios
