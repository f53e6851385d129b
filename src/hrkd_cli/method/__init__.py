"""The method as pure tensor code: losses, domain graph, objective (HRKD, Dong et al., EMNLP 2021).

Letters in shapes: B examples, T tokens, H teacher width, A heads, C classes, L student layers, D domains. Nothing here
knows of files, models or the command line, and nothing is imported from the rest of the package.
"""

from hrkd_cli.method.batched_losses import (
    ABSENT,
    Labels,
    Shares,
    StudentSignals,
    TeacherSignals,
    batch_terms,
    label_terms,
)
from hrkd_cli.method.graph import DomainGraph, GraphRatios
from hrkd_cli.method.losses import attention_loss, hidden_loss, prediction_loss, prototype
from hrkd_cli.method.objective import (
    BatchTerms,
    DomainTerms,
    LossParts,
    Projections,
    Signals,
    combine,
    domain_terms,
)
from hrkd_cli.method.relation import RelationGraph

__all__ = [
    "ABSENT",
    "BatchTerms",
    "DomainGraph",
    "DomainTerms",
    "GraphRatios",
    "Labels",
    "LossParts",
    "Projections",
    "RelationGraph",
    "Shares",
    "Signals",
    "StudentSignals",
    "TeacherSignals",
    "attention_loss",
    "batch_terms",
    "combine",
    "domain_terms",
    "hidden_loss",
    "label_terms",
    "prediction_loss",
    "prototype",
]
