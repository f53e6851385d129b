"""A domain graph that is trained. Its ratios start equal and can differ between domains."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hrkd_cli.method.domain_graph import GraphRatios, compare_aggregate

CODE_WIDTH = 64
HEADS = 4  # of attention
SLOPE = 0.2  # of the LeakyReLU, for negative numbers


class LearnedGraph(nn.Module):
    """Graph attention over the domains on standardized prototypes, one network per student layer.

    It differs from ``DomainGraph``, the released code's graph, in three ways:

    - Prototypes are normalized and centered across domains. The mean hidden states of one model are nearly parallel,
      and without this every domain would get almost the same ratio.
    - Attention depends on both nodes, ``e[i,j] = a . LeakyReLU(W_r c_i + W_n c_j)`` (Brody et al., 2022), and each node
      has a self term, ``f_i = ELU(sum_j softmax_j(e[i,j]) W_n c_j + W_s c_i)``, so nodes can differ on a complete
      graph.
    - The score weights start at zero, so all ratios start at exactly 1/D.

    c are the codes: prototypes mapped to width ``CODE_WIDTH``; with hierarchy, also mixed over layers.

    Args:
        width: H, width of the prototypes.
        layers: L, student layers. There are L+1 networks, because the embedding output has one too.
        domains: D.
        hierarchy: whether codes are mixed over layers before the graph (paper, section 3.3).
    """

    def __init__(self, width: int, layers: int, domains: int, *, hierarchy: bool = True) -> None:
        super().__init__()
        count, heads, head_width = layers + 1, HEADS, CODE_WIDTH // HEADS
        self.encode = nn.Linear(width, CODE_WIDTH, bias=False)
        self.receiver = nn.Parameter(torch.empty(count, heads, CODE_WIDTH, head_width))
        self.neighbor = nn.Parameter(torch.empty(count, heads, CODE_WIDTH, head_width))
        self.self_loop = nn.Parameter(torch.empty(count, heads, CODE_WIDTH, head_width))
        self.attention = nn.Parameter(torch.empty(count, heads, head_width))
        self.score = nn.Parameter(torch.zeros(count, CODE_WIDTH))
        for weight in (self.receiver, self.neighbor, self.self_loop):
            nn.init.normal_(weight, std=CODE_WIDTH**-0.5)
        nn.init.normal_(self.attention, std=head_width**-0.5)
        self.reference: nn.Parameter | None = None
        self.compare: nn.Parameter | None = None
        if hierarchy:
            self.reference = nn.Parameter(torch.empty(layers, CODE_WIDTH, CODE_WIDTH))
            self.compare = nn.Parameter(torch.empty(layers, domains, CODE_WIDTH, CODE_WIDTH))
            for weight in (self.reference, self.compare):
                nn.init.normal_(weight, std=CODE_WIDTH**-0.5)

    def forward(self, prototypes: Tensor) -> GraphRatios:
        """Compute domain and layer ratios from prototypes F (L+1, D, H)."""
        codes = self.encode(standardize(prototypes))  # (L+1, D, code width)
        layer_ratios: list[Tensor] = []
        if self.reference is not None and self.compare is not None:
            mixed = [codes[0]]
            for layer in range(1, len(codes)):
                nodes, ratios = compare_aggregate(codes, layer, self.reference[layer - 1], self.compare[layer - 1])
                mixed.append(nodes)
                layer_ratios.append(ratios)
            codes = torch.stack(mixed)
        receiver, neighbor, self_loop = (  # each (L+1, heads, D, head width)
            torch.einsum("ldk,lhko->lhdo", codes, weight) for weight in (self.receiver, self.neighbor, self.self_loop)
        )
        pairs = F.leaky_relu(receiver[:, :, :, None] + neighbor[:, :, None], SLOPE)
        weights = torch.einsum("lhije,lhe->lhij", pairs, self.attention).softmax(dim=-1)  # (L+1, heads, D, D)
        features = F.elu(weights @ neighbor + self_loop).transpose(1, 2).flatten(2)  # (L+1, D, code width)
        scores = torch.einsum("ldk,lk->ld", features, self.score)
        return GraphRatios(scores.softmax(dim=-1), tuple(layer_ratios))


def standardize(prototypes: Tensor) -> Tensor:
    """Standardize prototypes (L+1, D, H).

    Each is normalized over its width, then centered across the domains of its layer; then each layer is scaled to unit
    mean square.
    """
    normalized = F.layer_norm(prototypes, prototypes.shape[-1:])
    centered = normalized - normalized.mean(dim=1, keepdim=True)
    return centered / centered.square().mean(dim=(1, 2), keepdim=True).sqrt().clamp_min(1e-6)
