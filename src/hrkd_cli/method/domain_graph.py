"""The domain-relational graph (paper, section 3.2) and the hierarchical compare-aggregate mechanism (section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

XAVIER_GAIN = 1.414  # of the original graph attention code


@dataclass(frozen=True, slots=True)
class GraphRatios:
    """Ratios that the graph computes.

    Attributes:
        domain: (L+1, D), weights of the domains at each student layer; each row sums to 1.
        layer: for each l = 1..L, (D, l+1), weights of a domain's prototypes at layers 0..l; empty without hierarchy.
    """

    domain: Tensor
    layer: tuple[Tensor, ...]


def dropout(values: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
    """Apply dropout with its own generator, because all processes of a run must drop the same values."""
    if not rate:
        return values
    mask = torch.rand(values.shape, generator=generator, device=values.device, dtype=values.dtype) >= rate
    return values * mask / (1 - rate)


class GraphAttention(nn.Module):
    """A multi-head graph attention layer on a complete graph with self-loops (Velickovic et al., 2018).

    ``e[i,j] = LeakyReLU(a_receiver . W n_i + a_neighbor . W n_j)``, output ``ELU(sum_j softmax_j(e[i,j]) W n_j)``.
    """

    def __init__(self, width: int, out: int, *, heads: int, dropout: float, slope: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(heads, width, out))
        self.attention = nn.Parameter(torch.empty(heads, 2, out))  # 0: receiver, 1: neighbor
        self.dropout = dropout
        self.slope = slope
        for head in range(heads):
            nn.init.xavier_uniform_(self.weight.data[head], gain=XAVIER_GAIN)
            # Xavier's fans are those of the released code's (2 out, 1) matrix.
            nn.init.xavier_uniform_(self.attention.data[head].view(2 * out, 1), gain=XAVIER_GAIN)

    def forward(self, nodes: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Map nodes (D, width) to (D, heads x out), the heads concatenated."""
        # (heads, D, out); einsum and matmul would copy the weight.
        features = torch.bmm(nodes.expand(len(self.weight), -1, -1), self.weight)
        receiver, neighbor = torch.einsum("gdo,gso->sgd", features, self.attention)  # each (heads, D)
        scores = F.leaky_relu(receiver[:, :, None] + neighbor[:, None, :], self.slope)  # (heads, D, D)
        weights = dropout(scores.softmax(dim=-1), self.dropout if self.training else 0.0, generator)
        return F.elu(weights @ features).transpose(0, 1).flatten(1)  # (D, heads x out)


class DomainGraph(nn.Module):
    """One graph attention network per student layer; with hierarchy, on prototypes mixed over layers.

    ``ratio[l] = softmax over domains of GAT_l(F'[l])``. F' are the mixed prototypes (see ``compare_aggregate``), or the
    prototypes F themselves at layer 0 and without hierarchy.

    Args:
        width: H, width of the prototypes.
        layers: L, student layers. There are L+1 networks, because the embedding output has one too.
        domains: D.
        hierarchy: whether prototypes are mixed over layers before the graph.
        heads: heads of the first attention layer.
        dropout: rate on the input, the attention weights and the concatenated features, in train mode.
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
        self.generator: torch.Generator | None = None  # for dropout; None for torch's default
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
            # W1 and W2, for l = 1..L only: layer 0 has no layers below it.
            self.reference = nn.Parameter(torch.empty(layers, width, width))
            self.compare = nn.Parameter(torch.empty(layers, domains, width, width))
            for layer in range(layers):
                nn.init.xavier_uniform_(self.reference.data[layer], gain=XAVIER_GAIN)
                # Fans of the whole (D, H, H) block of a layer, as in the released code.
                nn.init.xavier_uniform_(self.compare.data[layer], gain=XAVIER_GAIN)

    def forward(self, prototypes: Tensor) -> GraphRatios:
        """Compute domain and layer ratios from prototypes F (L+1, D, H)."""
        rate = self.dropout if self.training else 0.0
        domain_ratios, layer_ratios = [], []
        for layer, nodes in enumerate(prototypes):
            if layer and self.reference is not None and self.compare is not None:
                nodes, ratios = compare_aggregate(prototypes, layer, self.reference[layer - 1], self.compare[layer - 1])
                layer_ratios.append(ratios)
            features = self.hidden[layer](dropout(nodes, rate, self.generator), self.generator)  # (D, heads x H)
            scores = self.output[layer](dropout(features, rate, self.generator), self.generator)  # (D, 1)
            domain_ratios.append(scores.squeeze(-1).softmax(dim=0))
        return GraphRatios(torch.stack(domain_ratios), tuple(layer_ratios))


def compare_aggregate(prototypes: Tensor, layer: int, reference: Tensor, compare: Tensor) -> tuple[Tensor, Tensor]:
    """Mix each domain's prototypes over layers 0..l (paper, section 3.3).

    1. reference: ``R = softmax_rows(F[l] W1 F[l]^T) F[l]``, (D, H);
    2. compare: ``ratio[d] = softmax over j = 0..l of F[j,d] . (W2_d R[d])``;
    3. aggregate: ``F'[d] = sum_j ratio[d,j] F[j,d]``, with the unmixed F[j] at every layer.

    Args:
        prototypes: F, (L+1, D, H).
        layer: l, at least 1.
        reference: W1 of this layer, (H, H).
        compare: W2 of this layer, (D, H, H).

    Returns:
        Mixed prototypes F' (D, H), and layer ratios (D, l+1).
    """
    current = prototypes[layer]  # (D, H)
    references = (current @ reference @ current.T).softmax(dim=-1) @ current  # R: (D, H)
    candidates = prototypes[: layer + 1]  # (l+1, D, H)
    targets = torch.einsum("dhk,dk->dh", compare, references)  # W2_d R[d]
    ratios = torch.einsum("jdh,dh->dj", candidates, targets).softmax(dim=-1)  # (D, l+1)
    return torch.einsum("dj,jdh->dh", ratios, candidates), ratios
