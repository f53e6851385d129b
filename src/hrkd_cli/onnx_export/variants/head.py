"""One head of a multi-domain classifier as a classifier of its own, with plain labels."""

from __future__ import annotations

from typing import Any

import torch

from hrkd_cli.errors import ModelError
from hrkd_cli.models.loading import output_layer
from hrkd_cli.predict.folder import Spec, baked_domain


def bake_head(model: Any, spec: Spec, domain: str, where: str) -> list[int]:
    """Keep one domain's rows of the last linear layer, and name the outputs by its labels, in place.

    Args:
        model: a transformers sequence classifier with an output for every (domain, label) pair.
        spec: what its configuration says.
        domain: the domain.
        where: what to call the model in errors.

    Returns:
        The kept rows.

    Raises:
        ModelError: it has no head for the domain, or its last layer is not the one with the outputs.
    """
    if spec.heads is None:
        only = baked_domain(spec.config)
        what = f"it is the head of {only!r} alone already" if only else "it is not a multi-domain classifier of hrkd"
        raise ModelError(f"{where}: {what}; export it without --domain")
    if domain not in spec.heads.labels:
        raise ModelError(f"{where}: no domain {domain!r} (--domain); it has {', '.join(spec.heads.domains)}")
    columns, labels = list(spec.heads.columns[domain]), spec.heads.labels[domain]
    name, old = output_layer(model)
    if old.out_features != spec.heads.size:
        raise ModelError(
            f"a {model.config.model_type} model: its last linear layer ({name}) has {old.out_features} outputs, not "
            f"the {spec.heads.size} of its labels; its heads cannot be taken apart"
        )
    new = torch.nn.Linear(old.in_features, len(columns), bias=old.bias is not None)
    with torch.no_grad():
        new.weight.copy_(old.weight[columns])
        if old.bias is not None:
            new.bias.copy_(old.bias[columns])
    model.set_submodule(name, new)
    config = model.config
    config.num_labels = model.num_labels = len(labels)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    config.hrkd = {**{key: value for key, value in config.hrkd.items() if key != "domains"}, "domain": domain}
    return columns
