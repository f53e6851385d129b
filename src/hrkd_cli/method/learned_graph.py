"""A domain graph that is trained: its output differs between nodes, and starts from equal ratios (method section 7)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hrkd_cli.method.domain_graph import GraphRatios, compare_aggregate

CODE_WIDTH = 64


class LearnedGraph(nn.Module):
    """Graph attention over the domains, one network a student layer, on normalised prototypes.

    What makes it differ from ``DomainGraph``, which is the released code's:

    - prototypes are normalised and freed of what all domains share at a layer: mean hidden states of one model are
      nearly parallel, and a graph that sees them as they are says the same of each;
    - attention depends on both nodes together (``a . LeakyReLU(W_r h_i + W_n h_j)``, Brody et al., 2022), and each node
      also sees itself past the attention, so that nodes stay apart on a complete graph;
    - the last layer starts at zero: ratios start at exactly 1/D and move on evidence only.

    Args:
        width: H, width of the prototypes.
        layers: L, student layers; there are L+1 networks, one for the embedding output too.
        domains: D.
        hierarchy: whether codes are mixed over layers before the graph (section 3.3 of the paper).
        heads: attention heads.
        slope: negative slope of the LeakyReLU.
    """

    def __init__(
        self, width: int, layers: int, domains: int, *, hierarchy: bool = True, heads: int = 4, slope: float = 0.2
    ) -> None:
        super().__init__()
        count, each = layers + 1, CODE_WIDTH // heads
        self.slope = slope
        self.encode = nn.Linear(width, CODE_WIDTH, bias=False)
        self.receiver = nn.Parameter(torch.empty(count, heads, CODE_WIDTH, each))
        self.neighbour = nn.Parameter(torch.empty(count, heads, CODE_WIDTH, each))
        self.itself = nn.Parameter(torch.empty(count, heads, CODE_WIDTH, each))
        self.attention = nn.Parameter(torch.empty(count, heads, each))
        self.score = nn.Parameter(torch.zeros(count, CODE_WIDTH))
        for weight in (self.receiver, self.neighbour, self.itself):
            nn.init.normal_(weight, std=CODE_WIDTH**-0.5)
        nn.init.normal_(self.attention, std=each**-0.5)
        self.reference: nn.Parameter | None = None
        self.compare: nn.Parameter | None = None
        if hierarchy:
            self.reference = nn.Parameter(torch.empty(layers, CODE_WIDTH, CODE_WIDTH))
            self.compare = nn.Parameter(torch.empty(layers, domains, CODE_WIDTH, CODE_WIDTH))
            for weight in (self.reference, self.compare):
                nn.init.normal_(weight, std=CODE_WIDTH**-0.5)

    def forward(self, prototypes: Tensor) -> GraphRatios:
        """Turn prototypes F (L+1, D, H) into domain and layer ratios."""
        codes = self.encode(standardize(prototypes))  # (L+1, D, code width)
        layer_ratios: list[Tensor] = []
        if self.reference is not None and self.compare is not None:
            mixed = [codes[0]]
            for layer in range(1, len(codes)):
                nodes, ratios = compare_aggregate(codes, layer, self.reference[layer - 1], self.compare[layer - 1])
                mixed.append(nodes)
                layer_ratios.append(ratios)
            codes = torch.stack(mixed)
        receiver, neighbour, itself = (
            torch.einsum("ldk,lhko->lhdo", codes, weight) for weight in (self.receiver, self.neighbour, self.itself)
        )
        both = F.leaky_relu(receiver[:, :, :, None] + neighbour[:, :, None], self.slope)  # (L+1, heads, D, D, each)
        weights = torch.einsum("lhije,lhe->lhij", both, self.attention).softmax(dim=-1)
        features = F.elu(weights @ neighbour + itself).transpose(1, 2).flatten(2)  # (L+1, D, code width)
        scores = torch.einsum("ldk,lk->ld", features, self.score)
        return GraphRatios(scores.softmax(dim=-1), tuple(layer_ratios))


def standardize(prototypes: Tensor) -> Tensor:
    """Normalise prototypes (L+1, D, H): each to mean 0, variance 1; less the domains' mean; to a unit mean square."""
    own = F.layer_norm(prototypes, prototypes.shape[-1:])
    own = own - own.mean(dim=1, keepdim=True)
    return own / own.square().mean(dim=(1, 2), keepdim=True).sqrt().clamp_min(1e-6)
