"""Inspect an ONNX file: its precision, number of parameters and quantized operators."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto

from hrkd_cli.errors import ModelError, one_line

INT8_TYPES = frozenset({TensorProto.INT8, TensorProto.UINT8})
INT8_OPS = frozenset({"MatMulInteger", "ConvInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QAttention"})
STATIC_INT8_OPS = frozenset({"QLinearMatMul", "QLinearConv", "QGemm", "QuantizeLinear"})
INT4_OPS = frozenset({"MatMulNBits", "GatherBlockQuantized"})
_WEIGHT_TYPES = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.UINT4} | INT8_TYPES
_QUANTIZER_SUFFIXES = ("_scale", "_scales", "_zero_point", "_zero_points")


def load_onnx(path: Path) -> Any:
    """Load an ONNX file; ModelError if it cannot be read."""
    try:
        return onnx.load(str(path))
    # protobuf raises its own exception class, which onnx does not export.
    except Exception as error:
        raise ModelError(f"{path}: cannot be read as an ONNX file ({one_line(error)})") from None


def weight_precision(model: Any) -> str:
    """Return the precision of the weights: as export recorded it, else judged by the operators."""
    recorded = next((item.value for item in model.metadata_props if item.key == "hrkd.precision"), "")
    if recorded:
        return str(recorded)
    operators = {node.op_type for node in model.graph.node}
    if operators & INT4_OPS:
        return "int4"
    if operators & STATIC_INT8_OPS:
        return "int8-static"
    if count_quantized_ops(model):
        return "int8"
    if any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer):
        return "fp16"
    return "fp32"


def count_quantized_ops(model: Any) -> dict[str, int]:
    """Count the operators that read 8-bit or 4-bit weights, by type, most frequent first.

    A MatMul whose weight comes from DequantizeLinear counts: onnxruntime fuses both into an integer product.
    """
    int8_weights = {tensor.name for tensor in model.graph.initializer if tensor.data_type in INT8_TYPES}
    nodes = model.graph.node
    dequantized = {
        node.output[0] for node in nodes if node.op_type == "DequantizeLinear" and node.input[0] in int8_weights
    }
    weights = {"Gather": int8_weights, "MatMul": dequantized}
    counts = Counter(
        node.op_type
        for node in nodes
        if node.op_type in INT8_OPS | INT4_OPS or not weights.get(node.op_type, set()).isdisjoint(node.input)
    )
    return dict(counts.most_common())


def count_parameters(model: Any) -> int:
    """Count the parameters as torch does, regardless of the precision in which they are stored.

    Scales and zero points do not count. Equal weights are stored once and reused through an Identity node; each counts.
    """
    nodes = model.graph.node
    # 4-bit weights are packed into bytes; the node's attributes have their real size.
    packed = {node.input[1]: {a.name: a.i for a in node.attribute} for node in nodes if node.op_type == "MatMulNBits"}
    sizes: dict[str, int] = {}
    for tensor in model.graph.initializer:
        size = math.prod(tensor.dims)
        # A scalar is a constant (an epsilon, a scale), not a weight.
        if tensor.data_type in _WEIGHT_TYPES and size > 1 and not tensor.name.endswith(_QUANTIZER_SUFFIXES):
            attributes = packed.get(tensor.name)
            sizes[tensor.name] = attributes["K"] * attributes["N"] if attributes else size
    casts = {node.output[0]: node.input[0] for node in nodes if node.op_type == "Cast"}  # of fp16 weights
    shared = [node.input[0] for node in nodes if node.op_type == "Identity"]
    return sum(sizes.values()) + sum(sizes.get(casts.get(name, name), 0) for name in shared)
