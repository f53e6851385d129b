"""The method as pure tensor code: losses, domain graph, total (HRKD, Dong et al., EMNLP 2021).

Letters in shapes: R rows of all domains, T tokens, H teacher width, A heads, C classes, L student layers, D domains.
Nothing here knows of files, models or the command line, and nothing is imported from the rest of the package.
"""

from hrkd_cli.method.domain_graph import DomainGraph, GraphRatios
from hrkd_cli.method.learned_graph import LearnedGraph
from hrkd_cli.method.losses import LOSSES, Loss, LossInput, Need, weighted_losses
from hrkd_cli.method.losses.label import label_terms
from hrkd_cli.method.model_outputs import MASKED_LOGIT, Labels, MeanWeights, Outputs
from hrkd_cli.method.projections import Projections
from hrkd_cli.method.total import DomainLosses, combine, layer_losses

__all__ = [
    "LOSSES",
    "MASKED_LOGIT",
    "DomainGraph",
    "DomainLosses",
    "GraphRatios",
    "Labels",
    "LearnedGraph",
    "Loss",
    "LossInput",
    "MeanWeights",
    "Need",
    "Outputs",
    "Projections",
    "combine",
    "label_terms",
    "layer_losses",
    "weighted_losses",
]
