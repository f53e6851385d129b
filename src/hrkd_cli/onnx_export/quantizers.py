"""Smaller files from an fp32 graph, with onnxruntime's quantizers: one function for each kind of file."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from onnxruntime.quantization.onnx_model import ONNXModel

from hrkd_cli.choices import Target
from hrkd_cli.evaluation.onnx_inspect import load_onnx
from hrkd_cli.machine import cpu_flags
from hrkd_cli.onnx_export.graph_editor import OPSET, constant, part_of, to_proto

INT8_ACTIVATIONS = 4
"""onnxruntime's accuracy_level for 4-bit weights: activations are rounded to int8 block by block; faster than fp32."""
EMBEDDING_BLOCK = 32
_LARGEST_FP16 = float(np.finfo(np.float16).max)

Arrays = Mapping[str, npt.NDArray[np.int64]]
Tables = Literal["table", "row", "int4", "fp32"]
"""How an embedding table is stored: int8 with one scale, int8 with one for each token, in 4 bits, or as it is."""


@dataclass(frozen=True, slots=True)
class Weights:
    """How dense weights are stored.

    Attributes:
        target: the CPU they are for; never ``auto``.
        bits: 8, or 7 where a product of 8 bits each could saturate: 255 * 64 + 255 * 64 still fits 16 bits.
        why: the reason, in words for people.
    """

    target: Target
    bits: int
    why: str


WEIGHTS = {
    weights.target: weights
    for weights in (
        Weights(Target.AVX2, 7, "AVX2 adds pairs of products in 16 bits, which saturate above 7-bit weights"),
        Weights(Target.AVX512_VNNI, 8, "VNNI adds products in 32 bits, so all 8 bits can be used"),
        Weights(Target.ARM64, 8, "ARM's dot products add in 32 bits, so all 8 bits can be used"),
        Weights(Target.WASM, 7, "a browser may add pairs of products in 16 bits, which saturate above 7-bit weights"),
    )
}


@dataclass(frozen=True, slots=True)
class QuantizerInputs:
    """What a quantizer may need beside the graph; calibration texts are one row each and without padding."""

    weights: Weights
    calibration: Callable[[], Iterator[Arrays]] = lambda: iter(())


def weights_for(target: Target) -> Weights:
    """Return how weights are stored for a CPU; ``auto`` is this machine's."""
    return WEIGHTS[detect(platform.machine(), cpu_flags()) if target is Target.AUTO else target]


def detect(machine: str, flags: frozenset[str]) -> Target:
    """Return a machine's target; what is not known for certain is ``avx2``, whose files are right everywhere."""
    if machine.lower() in ("arm64", "aarch64"):
        return Target.ARM64
    return Target.AVX512_VNNI if flags & {"avx512_vnni", "avx_vnni"} else Target.AVX2


def store_fp16(source: Path, target: Path, inputs: QuantizerInputs) -> None:
    """Store weights in fp16 and cast them back when the graph is loaded.

    CPUs have no fp16 kernels for most operators: a graph that computes in fp16 is full of conversions there, was slower
    than fp32 and can overflow. A weight with a number beyond fp16's range stays in fp32.
    """
    model = ir.from_proto(load_onnx(source))
    graph = model.graph
    for value in list(graph.initializers.values()):
        weight = value.const_value.numpy()
        if weight.dtype != np.float32 or weight.size == 1 or float(np.abs(weight).max(initial=0)) > _LARGEST_FP16:
            continue
        stored = ir.val(f"{value.name}_fp16", const_value=ir.tensor(weight.astype(np.float16)))
        graph.register_initializer(stored)
        cast = ir.node("Cast", [stored], {"to": int(ir.DataType.FLOAT)}, name=f"{value.name}_Cast")
        graph.insert_before(graph[0], cast)
        value.replace_all_uses_with(cast.outputs[0])
        del graph.initializers[value.name]
    onnx.save(to_proto(model), str(target))


def int8_dynamic(
    source: Path,
    target: Path,
    inputs: QuantizerInputs,
    *,
    per_channel: bool = True,
    unsigned: bool = False,
    tables: Tables = "table",
    attention: bool = True,
) -> None:
    """Quantize weights now, and each activation at run time by its own extremes.

    Args:
        source: fp32 graph.
        target: file to write.
        inputs: for the bits of the weights.
        per_channel: one scale for each column of a dense weight, else one for the matrix.
        unsigned: unsigned weights of 8 bits, slower but never saturating.
        tables: how embeddings are stored.
        attention: whether the dense layers of attention are quantized.
    """
    model = load_onnx(source)
    quantize_dynamic(
        model,
        target,
        op_types_to_quantize=["MatMul"],
        per_channel=per_channel,
        reduce_range=inputs.weights.bits < 8 and not unsigned,
        weight_type=QuantType.QUInt8 if unsigned else QuantType.QInt8,
        nodes_to_exclude=[] if attention else _attention_layers(model),
    )
    _quantize_tables(target, tables)


def int8_static(
    source: Path,
    target: Path,
    inputs: QuantizerInputs,
    *,
    moving_average: bool = False,
    tables: Tables = "table",
    attention: bool = True,
) -> None:
    """Quantize weights and activations with scales that are part of the file, as QuantizeLinear-DequantizeLinear pairs.

    No scale depends on the batch or its padding, so neither does the answer. Options are those of ``int8_dynamic``;
    ``moving_average`` takes ranges from a moving average over texts instead of from the extremes of all.
    """
    proto = ONNXModel(load_onnx(source))
    proto.replace_gemm_with_matmul()
    excluded = set() if attention else set(_attention_layers(proto.model))
    model = ir.from_proto(proto.model)
    dense = [
        n for n in model.graph if n.op_type == "MatMul" and n.inputs[1].is_initializer() and n.name not in excluded
    ]
    # The quantizer rounds an activation for all its readers. Through an Identity of their own only the dense layers
    # read the rounded one, and the residual additions stay exact.
    copies: dict[ir.Value, ir.Value] = {}
    for node in dense:
        source_value = node.inputs[0]
        if source_value not in copies:
            copy = ir.node("Identity", [source_value], name=f"{node.name}_activation")
            model.graph.insert_before(node, copy)
            copies[source_value] = copy.outputs[0]
        node.replace_input_with(0, copies[source_value])
    rows = inputs.calibration()
    quantize_static(
        to_proto(model),
        target,
        SimpleNamespace(get_next=lambda: next(rows, None)),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["MatMul"],
        nodes_to_quantize=[node.name for node in dense],
        per_channel=True,
        reduce_range=inputs.weights.bits < 8,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        extra_options={
            "OpTypesToExcludeOutputQuantization": ["MatMul"],
            "QDQOpTypePerChannelSupportToAxis": {"MatMul": 1},
            "CalibMovingAverage": moving_average,
        },
    )
    _quantize_tables(target, tables)


def int4(source: Path, target: Path, inputs: QuantizerInputs, *, block: int = 128) -> None:
    """Store weights in 4 bits with a scale and a zero point for each block, for size; operators of onnxruntime's own.

    ``block`` dense weights share a scale.
    """
    proto = ONNXModel(load_onnx(source))
    proto.replace_gemm_with_matmul()
    onnx.save(_to_4_bits(proto.model, "MatMul", block), str(target))
    _quantize_tables(target, "int4")


def _to_4_bits(model: Any, operator: str, block: int) -> Any:
    quantizer = MatMulNBitsQuantizer(
        model,
        block_size=block,
        accuracy_level=INT8_ACTIVATIONS,
        op_types_to_quantize=(operator,),
        quant_axes=(("MatMul", 0), ("Gather", 1)),
    )
    quantizer.process()
    # It declares opset 21 without converting the operators, which are still those of the traced graph.
    quantizer.model.set_opset_import("", OPSET)
    return quantizer.model.model


def _attention_layers(model: Any) -> list[str]:
    return [n.name for n in model.graph.node if n.op_type == "MatMul" and part_of(n.name) == "attention"]


def _quantize_tables(path: Path, tables: Tables) -> None:
    """Store the embedding tables of a file in fewer bits."""
    if tables == "table":
        quantize_dynamic(path, path, op_types_to_quantize=["Gather"])
    elif tables == "int4":
        onnx.save(_to_4_bits(load_onnx(path), "Gather", EMBEDDING_BLOCK), str(path))
    elif tables == "row":
        model = ir.load(path)
        for node in list(model.graph):
            table = constant(node.inputs[0]) if node.op_type == "Gather" else None
            if table is not None and table.dtype == np.float32 and table.ndim == 2:
                _scale_each_token(model.graph, node, table)
        RemoveUnusedNodesPass()(model)
        onnx.save(to_proto(model), str(path))


def _scale_each_token(graph: ir.Graph, lookup: ir.Node, table: npt.NDArray[np.float32]) -> None:
    """Replace a lookup in a table [V, W] by lookups of its int8 numbers [V, W] and scales [V, 1], multiplied."""
    name, ids, found = lookup.inputs[0].name, lookup.inputs[1], lookup.outputs[0]
    largest = np.abs(table).max(axis=1, keepdims=True)
    scale = (np.where(largest > 0, largest, 1) / 127).astype(np.float32)
    numbers = ir.val(f"{name}_quantized", const_value=ir.tensor(np.rint(table / scale).astype(np.int8)))
    scales = ir.val(f"{name}_scale", const_value=ir.tensor(scale))
    graph.register_initializer(numbers)
    graph.register_initializer(scales)
    rows = ir.node("Gather", [numbers, ids], {"axis": 0}, name=f"{lookup.name}_quantized")
    factors = ir.node("Gather", [scales, ids], {"axis": 0}, name=f"{lookup.name}_scales")
    cast = ir.node("Cast", rows.outputs, {"to": int(ir.DataType.FLOAT)}, name=f"{lookup.name}_Cast")
    product = ir.node("Mul", [cast.outputs[0], factors.outputs[0]], name=f"{lookup.name}_Mul")
    graph.insert_before(lookup, [rows, factors, cast, product])
    found.replace_all_uses_with(product.outputs[0])
    graph.remove(lookup, safe=True)
