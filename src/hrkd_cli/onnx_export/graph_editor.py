"""ONNX graphs: constants, metadata, and which part of the model a node or a weight belongs to."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from hrkd_cli.evaluation.onnx_inspect import load_onnx
from hrkd_cli.version import __version__

# The first with LayerNormalization as one operator: 14 to 16 work too, but spell each norm out in nine, whose square
# overflows once a graph is turned to fp16. Every onnxruntime since 1.12 reads it.
OPSET = 17

PARTS = ("embeddings", "attention", "feed_forward", "head", "other")

# Scopes as the exporter writes them: "/model/bert/encoder/layer.0/attention/self/query/MatMul" for nodes, the same
# with dots for weights that kept their names.
_LAYER = re.compile(r"[./]layers?\.\d+[./]")
_ATTENTION = re.compile(r"attention|[./]attn|sa_layer_norm")
_EMBEDDINGS = re.compile(r"embedding")
_HEAD = re.compile(r"[./](pooler|classifier|pre_classifier|head)[./]")


def constant(value: ir.Value | None) -> npt.NDArray[Any] | None:
    """Return the value of an initializer or Constant node, also behind an Identity; None for an activation."""
    while value is not None and (node := value.producer()) is not None and node.op_type == "Identity":
        value = node.inputs[0]
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None else tensor.numpy()


def int64_constant(graph: ir.Graph, values: Sequence[int]) -> ir.Value:
    """Add a constant to a graph, before all nodes."""
    node = ir.node("Constant", [], {"value": ir.tensor(np.array(values, dtype=np.int64))})
    graph.insert_before(graph[0], node)
    return node.outputs[0]


def to_proto(model: ir.Model) -> Any:
    """Return a ModelProto without recorded shapes of values: a rewrite may have changed them."""
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]
    return proto


def stamp(model: Any, precision: str, facts: Mapping[str, str]) -> None:
    """Write into a graph's metadata what made it, for a file that has lost its folder."""
    known = {"hrkd.version": __version__, "hrkd.precision": precision}
    known |= {f"hrkd.{name}": value for name, value in facts.items()}
    onnx.helper.set_model_props(model, known)


def bytes_by_part(path: Path) -> dict[str, int]:
    """Return the bytes of a file by part of the model; together they are the file.

    ``attention`` and ``feed_forward`` hold each layer's norms too; ``other`` is the graph itself and what belongs to
    no part. A weight that transposing left without a name counts where it is used.
    """
    model = load_onnx(path)
    # Reversed, so that the first reader of a weight is kept.
    readers = {name: node.name for node in reversed(model.graph.node) for name in node.input}
    sizes = dict.fromkeys(PARTS, 0)
    for tensor in model.graph.initializer:
        part = part_of(tensor.name)
        if part == "other":
            part = part_of(readers.get(tensor.name, ""))
        sizes[part] += tensor.ByteSize()
    sizes["other"] += path.stat().st_size - sum(sizes.values())
    return sizes


def part_of(name: str) -> str:
    """Return the part of the model that a weight's or node's name says it belongs to."""
    if layer := _LAYER.search(name):
        return "attention" if _ATTENTION.search(name, layer.end() - 1) else "feed_forward"
    if _EMBEDDINGS.search(name):
        return "embeddings"
    return "head" if _HEAD.search(name) else "other"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep warnings and log lines of torch, onnx and onnxruntime off the terminal: they are about our own choices."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
