"""Where the bytes of an ONNX file go."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hrkd_cli.evaluation.graph import read_graph

PARTS = ("embeddings", "attention", "feed_forward", "head", "other")

# Scopes as the exporter writes them: "/model/bert/encoder/layer.0/attention/self/query/MatMul" for nodes, the same
# with dots for weights that kept their names.
_LAYER = re.compile(r"[./]layers?\.\d+[./]")
_ATTENTION = re.compile(r"attention|[./]attn|sa_layer_norm")
_EMBEDDINGS = re.compile(r"embedding")
_HEAD = re.compile(r"[./](pooler|classifier|pre_classifier|head)[./]")


def bytes_by_part(path: Path) -> dict[str, int]:
    """Return the bytes of a file by part of the model; together they are the file.

    ``attention`` and ``feed_forward`` hold each layer's norms too; ``other`` is the graph itself and what belongs to
    no part. A weight that transposing left without a name counts where it is used.
    """
    model = read_graph(path)
    users = dict(_first_users(model))
    sizes = dict.fromkeys(PARTS, 0)
    for tensor in model.graph.initializer:
        part = part_of(tensor.name)
        if part == "other":
            part = part_of(users.get(tensor.name, ""))
        sizes[part] += tensor.ByteSize()
    sizes["other"] = path.stat().st_size - sum(size for part, size in sizes.items() if part != "other")
    return sizes


def part_of(name: str) -> str:
    """Return the part of the model that a weight's or node's name says it belongs to."""
    if layer := _LAYER.search(name):
        return "attention" if _ATTENTION.search(name, layer.end() - 1) else "feed_forward"
    if _EMBEDDINGS.search(name):
        return "embeddings"
    return "head" if _HEAD.search(name) else "other"


def _first_users(model: Any) -> Iterator[tuple[str, str]]:
    """Yield weights and the nodes that read them; of several, the first comes last, so that a dict keeps it."""
    for node in reversed(model.graph.node):
        for name in node.input:
            yield name, node.name
