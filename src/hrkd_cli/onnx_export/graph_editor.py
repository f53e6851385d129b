"""Helpers for ONNX graphs: file formats, constants, metadata, and size by part of the model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from hrkd_cli.evaluation.onnx_inspect import load_onnx
from hrkd_cli.version import __version__

# The first opset with LayerNormalization as one operator. Opsets 14 to 16 split each norm into nine operators, one of
# which is a square that overflows in fp16. Every onnxruntime since 1.12 reads opset 17.
OPSET = 17

ModelInputs = Mapping[str, npt.NDArray[np.int64]]
"""One batch: ``input_ids``, ``attention_mask`` and, if the model takes them, ``token_type_ids``, each (B, T)."""

PARTS = ("embeddings", "attention", "feed_forward", "head", "other")

# Scopes as the exporter writes them: "/bert/encoder/layer.0/attention/self/query/MatMul" for nodes, the same with dots
# for weights that kept their names.
_LAYER = re.compile(r"[./]layers?\.\d+[./]")
_ATTENTION = re.compile(r"attention|[./]attn|sa_layer_norm")
_EMBEDDINGS = re.compile(r"embedding")
_HEAD = re.compile(r"(^|[./])(pooler|classifier|pre_classifier|head)[./]")
_TO_FP32 = ("Cast", "DequantizeLinear")


class OnnxFormat(StrEnum):
    """The number format of an exported file; JSON files and cards call it its precision."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"
    INT8_STATIC = "int8-static"
    INT4 = "int4"


def constant_value(value: ir.Value | None) -> npt.NDArray[Any] | None:
    """Return the value of an initializer or Constant node, also through Identity nodes; None for an activation."""
    while value is not None and (node := value.producer()) is not None and node.op_type == "Identity":
        value = node.inputs[0]
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None else tensor.numpy()


def add_int64_constant(graph: ir.Graph, values: Sequence[int]) -> ir.Value:
    """Insert a Constant node at the start of a graph and return its output."""
    node = ir.node("Constant", [], {"value": ir.tensor(np.array(values, dtype=np.int64))})
    graph.insert_before(graph[0], node)
    return node.outputs[0]


def to_proto(model: ir.Model) -> Any:
    """Return a ModelProto without inferred shapes, which a rewrite may have made wrong."""
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]
    return proto


def set_metadata(model: Any, onnx_format: OnnxFormat, properties: Mapping[str, str]) -> None:
    """Write the hrkd-cli version, the format and ``properties`` into a file's metadata, with the prefix ``hrkd.``."""
    metadata = {"hrkd.version": __version__, "hrkd.precision": str(onnx_format)}
    metadata |= {f"hrkd.{name}": value for name, value in properties.items()}
    onnx.helper.set_model_props(model, metadata)


def bytes_by_part(path: Path) -> dict[str, int]:
    """Return the size of a file by part of the model; the values add up to the file's size.

    ``attention`` and ``feed_forward`` include their layers' norms. ``other`` includes the graph itself and weights of
    no known part. A weight that lost its name when it was transposed belongs to the part of its first reader.
    """
    model = load_onnx(path)
    # Reversed, so that the first reader of a weight wins.
    first_readers = {name: node for node in reversed(model.graph.node) for name in node.input}
    sizes = dict.fromkeys(PARTS, 0)
    for tensor in model.graph.initializer:
        reader = first_readers.get(tensor.name)
        # A node that turns a stored weight into fp32 is named after the weight; the layer reads that node's output.
        if reader is not None and reader.op_type in _TO_FP32:
            reader = first_readers.get(reader.output[0])
        part = model_part(tensor.name)
        if part == "other" and reader is not None:
            part = model_part(reader.name)
        sizes[part] += tensor.ByteSize()
    sizes["other"] += path.stat().st_size - sum(sizes.values())
    return sizes


def model_part(name: str) -> str:
    """Return which of ``PARTS`` a weight or node belongs to, judged by its name."""
    if layer := _LAYER.search(name):
        return "attention" if _ATTENTION.search(name, layer.end() - 1) else "feed_forward"
    if _EMBEDDINGS.search(name):
        return "embeddings"
    return "head" if _HEAD.search(name) else "other"
