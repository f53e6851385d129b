"""Functions that turn an fp32 ONNX file into a smaller one, one per kind of file, with onnxruntime's quantizers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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

from hrkd_cli.evaluation.onnx_inspect import load_onnx
from hrkd_cli.onnx_export.cpu_targets import WeightFormat
from hrkd_cli.onnx_export.graph_editor import OPSET, ModelInputs, constant_value, model_part, to_proto

INT8_ACTIVATIONS = 4
"""onnxruntime's accuracy_level for 4-bit weights that rounds activations to int8 per block; faster than fp32."""
EMBEDDING_BLOCK = 32
_LARGEST_FP16 = float(np.finfo(np.float16).max)

EmbeddingFormat = Literal["per_tensor", "per_row", "int4", "fp32"]
"""How embeddings are stored: int8 with one scale per tensor or per row, in 4 bits, or unchanged."""


@dataclass(frozen=True, slots=True)
class QuantizerInputs:
    """Inputs of a quantizer besides the ONNX file; ``calibration`` returns batches of one unpadded text each."""

    weight_format: WeightFormat
    calibration: Callable[[], Iterator[ModelInputs]] = lambda: iter(())


def write_fp16(source: Path, target: Path, inputs: QuantizerInputs) -> None:
    """Store weights in fp16, each with a Cast to fp32 that onnxruntime folds at load time.

    The arithmetic stays in fp32: CPUs have no fp16 kernels for most operators, so a graph that computes in fp16 is full
    of conversions, is slower than fp32 and can overflow. Weights with values beyond fp16's range stay in fp32.
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


def write_int8_dynamic(
    source: Path,
    target: Path,
    inputs: QuantizerInputs,
    *,
    per_channel: bool = True,
    unsigned: bool = False,
    embeddings: EmbeddingFormat = "per_tensor",
    attention: bool = True,
) -> None:
    """Quantize weights now, and activations at run time with the range of each batch.

    Args:
        source: fp32 ONNX file.
        target: file to write.
        inputs: for the number of bits of the weights.
        per_channel: one scale per output column of a dense weight instead of one per matrix.
        unsigned: unsigned 8-bit weights, which are slower but never saturate.
        embeddings: how embeddings are stored.
        attention: whether to quantize the dense layers of attention.
    """
    model = load_onnx(source)
    quantize_dynamic(
        model,
        target,
        op_types_to_quantize=["MatMul"],
        per_channel=per_channel,
        reduce_range=inputs.weight_format.bits < 8 and not unsigned,
        weight_type=QuantType.QUInt8 if unsigned else QuantType.QInt8,
        nodes_to_exclude=[] if attention else _attention_layers(model),
    )
    _quantize_embeddings(target, embeddings)


def write_int8_static(
    source: Path,
    target: Path,
    inputs: QuantizerInputs,
    *,
    moving_average: bool = False,
    embeddings: EmbeddingFormat = "per_tensor",
    attention: bool = True,
) -> None:
    """Quantize weights and activations with scales stored in the file, as QuantizeLinear-DequantizeLinear pairs.

    Scales are the same for every batch, so the output does not depend on batching or padding. ``moving_average`` takes
    activation ranges from a moving average over the calibration texts instead of from the minimum and maximum; the
    other options are those of ``write_int8_dynamic``.
    """
    proto = ONNXModel(load_onnx(source))
    proto.replace_gemm_with_matmul()
    excluded = set() if attention else set(_attention_layers(proto.model))
    model = ir.from_proto(proto.model)
    dense = [
        n for n in model.graph if n.op_type == "MatMul" and n.inputs[1].is_initializer() and n.name not in excluded
    ]
    # The quantizer rounds an activation for all of its readers. An Identity for the dense layers keeps the rounded
    # values from the residual additions, which stay exact.
    copies: dict[ir.Value, ir.Value] = {}
    for node in dense:
        activation = node.inputs[0]
        if activation not in copies:
            copy = ir.node("Identity", [activation], name=f"{node.name}_activation")
            model.graph.insert_before(node, copy)
            copies[activation] = copy.outputs[0]
        node.replace_input_with(0, copies[activation])
    batches = inputs.calibration()
    quantize_static(
        to_proto(model),
        target,
        SimpleNamespace(get_next=lambda: next(batches, None)),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["MatMul"],
        nodes_to_quantize=[node.name for node in dense],
        per_channel=True,
        reduce_range=inputs.weight_format.bits < 8,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        extra_options={
            "OpTypesToExcludeOutputQuantization": ["MatMul"],
            "QDQOpTypePerChannelSupportToAxis": {"MatMul": 1},
            "CalibMovingAverage": moving_average,
        },
    )
    _quantize_embeddings(target, embeddings)


def write_int4(source: Path, target: Path, inputs: QuantizerInputs, *, block_size: int = 128) -> None:
    """Store weights in 4 bits, with a scale and a zero point per block of ``block_size`` dense weights.

    The smallest file; needs onnxruntime's own operators.
    """
    proto = ONNXModel(load_onnx(source))
    proto.replace_gemm_with_matmul()
    onnx.save(_to_4_bits(proto.model, "MatMul", block_size), str(target))
    _quantize_embeddings(target, "int4")


def _to_4_bits(model: Any, op_type: str, block_size: int) -> Any:
    quantizer = MatMulNBitsQuantizer(
        model,
        block_size=block_size,
        accuracy_level=INT8_ACTIVATIONS,
        op_types_to_quantize=(op_type,),
        quant_axes=(("MatMul", 0), ("Gather", 1)),
    )
    quantizer.process()
    # The quantizer declares opset 21 but does not convert the operators, which are still those of the traced graph.
    quantizer.model.set_opset_import("", OPSET)
    return quantizer.model.model


def _attention_layers(model: Any) -> list[str]:
    return [n.name for n in model.graph.node if n.op_type == "MatMul" and model_part(n.name) == "attention"]


def _quantize_embeddings(path: Path, embeddings: EmbeddingFormat) -> None:
    """Convert the embeddings of a file, in place."""
    if embeddings == "per_tensor":
        quantize_dynamic(path, path, op_types_to_quantize=["Gather"])
    elif embeddings == "int4":
        onnx.save(_to_4_bits(load_onnx(path), "Gather", EMBEDDING_BLOCK), str(path))
    elif embeddings == "per_row":
        model = ir.load(path)
        for node in list(model.graph):
            weight = constant_value(node.inputs[0]) if node.op_type == "Gather" else None
            if weight is not None and weight.dtype == np.float32 and weight.ndim == 2:
                _quantize_lookup_per_row(model.graph, node, weight)
        RemoveUnusedNodesPass()(model)
        onnx.save(to_proto(model), str(path))


def _quantize_lookup_per_row(graph: ir.Graph, lookup: ir.Node, weight: npt.NDArray[np.float32]) -> None:
    """Replace an embedding lookup in (V, W) by lookups of int8 values (V, W) and scales (V, 1), multiplied."""
    name, ids, output = lookup.inputs[0].name, lookup.inputs[1], lookup.outputs[0]
    largest = np.abs(weight).max(axis=1, keepdims=True)
    scale = (np.where(largest > 0, largest, 1) / 127).astype(np.float32)
    values = ir.val(f"{name}_quantized", const_value=ir.tensor(np.rint(weight / scale).astype(np.int8)))
    scales = ir.val(f"{name}_scale", const_value=ir.tensor(scale))
    graph.register_initializer(values)
    graph.register_initializer(scales)
    rows = ir.node("Gather", [values, ids], {"axis": 0}, name=f"{lookup.name}_quantized")
    row_scales = ir.node("Gather", [scales, ids], {"axis": 0}, name=f"{lookup.name}_scales")
    cast = ir.node("Cast", rows.outputs, {"to": int(ir.DataType.FLOAT)}, name=f"{lookup.name}_Cast")
    product = ir.node("Mul", [cast.outputs[0], row_scales.outputs[0]], name=f"{lookup.name}_Mul")
    graph.insert_before(lookup, [rows, row_scales, cast, product])
    output.replace_all_uses_with(product.outputs[0])
    graph.remove(lookup, safe=True)
