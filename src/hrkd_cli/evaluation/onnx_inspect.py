"""What an ONNX file consists of: its precision, its parameters, its quantized operators."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto

from hrkd_cli.errors import ModelError, one_line

INT8_TYPES = frozenset({TensorProto.INT8, TensorProto.UINT8})
INTEGER_OPS = frozenset({"MatMulInteger", "ConvInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QAttention"})
STATIC_OPS = frozenset({"QLinearMatMul", "QLinearConv", "QGemm", "QuantizeLinear"})
INT4_OPS = frozenset({"MatMulNBits", "GatherBlockQuantized"})
_WEIGHT_TYPES = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.UINT4} | INT8_TYPES
_QUANTIZER_SUFFIXES = ("_scale", "_scales", "_zero_point", "_zero_points")


def load_onnx(path: Path) -> Any:
    """Read an ONNX file; ModelError if it is none."""
    try:
        return onnx.load(str(path))
    # protobuf has an exception class of its own, which onnx does not name.
    except Exception as error:
        raise ModelError(f"{path}: cannot be read as an ONNX file ({one_line(error)})") from None


def weight_precision(model: Any) -> str:
    """Name a graph's precision: ``fp32``, ``fp16``, ``int8``, ``int8-static`` or ``int4``."""
    operators = {node.op_type for node in model.graph.node}
    if operators & INT4_OPS:
        return "int4"
    if operators & STATIC_OPS:
        return "int8-static"
    if count_quantized_ops(model):
        return "int8"
    if any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer):
        return "fp16"
    return "fp32"


def count_quantized_ops(model: Any) -> dict[str, int]:
    """Count the operators that read weights of 8 or 4 bits, by type, most frequent first.

    A MatMul counts where its weight comes from DequantizeLinear, which onnxruntime makes one integer product of.
    """
    stored = {tensor.name for tensor in model.graph.initializer if tensor.data_type in INT8_TYPES}
    nodes = model.graph.node
    restored = {node.output[0] for node in nodes if node.op_type == "DequantizeLinear" and node.input[0] in stored}
    weights = {"Gather": stored, "MatMul": restored}
    counts = Counter(
        node.op_type
        for node in nodes
        if node.op_type in INTEGER_OPS | INT4_OPS or not weights.get(node.op_type, set()).isdisjoint(node.input)
    )
    return dict(counts.most_common())


def count_parameters(model: Any) -> int:
    """Count the numbers in the weights: what torch counts as parameters, whatever precision they are stored in.

    Scales and zero points are not parameters. A weight that equals another is stored once and passed on by an Identity
    node; it counts twice.
    """
    nodes = model.graph.node
    # A product in 4 bits says its size itself: its numbers are packed into bytes.
    packed = {node.input[1]: {a.name: a.i for a in node.attribute} for node in nodes if node.op_type == "MatMulNBits"}
    sizes: dict[str, int] = {}
    for tensor in model.graph.initializer:
        size = math.prod(tensor.dims)
        # A single number is a constant of the graph (an epsilon, a scale), not a weight.
        if tensor.data_type in _WEIGHT_TYPES and size > 1 and not tensor.name.endswith(_QUANTIZER_SUFFIXES):
            own = packed.get(tensor.name)
            sizes[tensor.name] = own["K"] * own["N"] if own else size
    casts = {node.output[0]: node.input[0] for node in nodes if node.op_type == "Cast"}  # of fp16 weights
    shared = [node.input[0] for node in nodes if node.op_type == "Identity"]
    return sum(sizes.values()) + sum(sizes.get(casts.get(name, name), 0) for name in shared)
