"""What an ONNX file consists of: its precision, its parameters, its quantised operators."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto

from hrkd_cli.errors import ModelError, one_line

INT8_TYPES = frozenset({TensorProto.INT8, TensorProto.UINT8})
INTEGER_OPS = frozenset({"MatMulInteger", "ConvInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QAttention"})
STATIC_OPS = frozenset({"QLinearMatMul", "QLinearConv", "QGemm", "QuantizeLinear"})
INT4_OPS = frozenset({"MatMulNBits", "GatherBlockQuantized"})
_WEIGHT_TYPES = (
    frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.UINT4}) | INT8_TYPES
)
_QUANTISER_SUFFIXES = ("_scale", "_scales", "_zero_point", "_zero_points")


def read_graph(path: Path) -> Any:
    """Read an ONNX file.

    Raises:
        ModelError: it is not one.
    """
    try:
        return onnx.load(str(path))
    # protobuf has an exception class of its own, which onnx does not name.
    except Exception as error:
        raise ModelError(f"{path}: cannot be read as an ONNX file ({one_line(error)})") from None


def precision(model: Any) -> str:
    """Name a graph's precision: ``fp32``, ``fp16``, ``int8``, ``int8-static`` or ``int4``."""
    operators = {node.op_type for node in model.graph.node}
    if operators & INT4_OPS:
        return "int4"
    if operators & STATIC_OPS:
        return "int8-static"
    if quantized_ops(model):
        return "int8"
    if any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer):
        return "fp16"
    return "fp32"


def quantized_ops(model: Any) -> dict[str, int]:
    """Count the operators that read weights of 8 or 4 bits, by type, most frequent first.

    A MatMul counts where its weight comes from DequantizeLinear, which onnxruntime makes one integer product of.
    """
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    stored = {name for name, kind in types.items() if kind in INT8_TYPES}
    restored = {
        node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in stored
    }
    counts: Counter[str] = Counter()
    for node in model.graph.node:
        reads_int8 = node.op_type == "Gather" and not stored.isdisjoint(node.input)
        if node.op_type in INTEGER_OPS | INT4_OPS or reads_int8:
            counts[node.op_type] += 1
        elif node.op_type == "MatMul" and not restored.isdisjoint(node.input):
            counts["MatMul"] += 1
    return dict(counts.most_common())


def count_parameters(model: Any) -> int:
    """Count the numbers in the weights: what torch counts as parameters, whatever precision they are stored in.

    Scales and zero points are not parameters. A weight that equals another is stored once and passed on by an Identity
    node; it counts twice.
    """
    sizes = dict(_weights(model))
    # fp16 weights pass through a Cast first.
    casts = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Cast"}
    sizes_after = {name: sizes[source] for name, source in casts.items() if source in sizes}
    shared = (node.input[0] for node in model.graph.node if node.op_type == "Identity")
    return sum(sizes.values()) + sum(sizes.get(name, sizes_after.get(name, 0)) for name in shared)


def _weights(model: Any) -> Iterator[tuple[str, int]]:
    # A product in 4 bits says its size itself: its numbers are packed into bytes.
    packed = {node.input[1]: _attributes(node) for node in model.graph.node if node.op_type == "MatMulNBits"}
    for tensor in model.graph.initializer:
        size = math.prod(tensor.dims)
        # A single number is a constant of the graph (an epsilon, a scale), not a weight.
        if tensor.data_type not in _WEIGHT_TYPES or size <= 1 or tensor.name.endswith(_QUANTISER_SUFFIXES):
            continue
        if sizes := packed.get(tensor.name):
            size = sizes["K"] * sizes["N"]
        yield tensor.name, size


def _attributes(node: Any) -> dict[str, int]:
    return {entry.name: entry.i for entry in node.attribute}
