"""The method as pure tensor code: losses, domain graph, total loss (HRKD, Dong et al., EMNLP 2021).

Letters in shapes: R rows of all domains, T tokens, H teacher width, h student width, A attention heads, d head width,
C classes, L student layers, D domains. Nothing here imports from the rest of the package.
"""

from hrkd_cli.method.domain_graph import DomainGraph, GraphRatios
from hrkd_cli.method.learned_graph import LearnedGraph
from hrkd_cli.method.losses import LOSSES, Loss, LossInputs, Requirement
from hrkd_cli.method.losses.label import label_cross_entropy
from hrkd_cli.method.model_outputs import MASKED_LOGIT, Labels, MeanWeights, Outputs
from hrkd_cli.method.projections import Projections
from hrkd_cli.method.total import DomainLosses, weighted_layer_losses, weighted_terms

__all__ = [
    "LOSSES",
    "MASKED_LOGIT",
    "DomainGraph",
    "DomainLosses",
    "GraphRatios",
    "Labels",
    "LearnedGraph",
    "Loss",
    "LossInputs",
    "MeanWeights",
    "Outputs",
    "Projections",
    "Requirement",
    "label_cross_entropy",
    "weighted_layer_losses",
    "weighted_terms",
]
