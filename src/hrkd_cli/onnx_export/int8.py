"""Dense layers in 8-bit integers, activations quantised when the graph runs or with ranges known beforehand."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import TensorProto

from hrkd_cli.onnx_export.calibrate import Extremes
from hrkd_cli.onnx_export.dense import Dense, dense_layers, split_gemms
from hrkd_cli.onnx_export.onnx_graph import Array, OnnxGraph
from hrkd_cli.onnx_export.recipes import Recipe, Tables
from hrkd_cli.onnx_export.tables import quantize_tables
from hrkd_cli.onnx_export.targets import Weights

_STEPS = 255
"""Steps of an activation, which is unsigned."""


def quantize_dynamic(graph: OnnxGraph, recipe: Recipe, weights: Weights) -> None:
    """Quantise weights now and each activation when it is there, by its own extremes, once however many read it."""
    quantize_dense(graph, recipe, weights)
    _quantize_tables(graph, recipe)


def quantize_dense(graph: OnnxGraph, recipe: Recipe, weights: Weights) -> None:
    """Quantise as ``quantize_dynamic`` does, dense layers only."""
    split_gemms(graph)
    activations: dict[str, list[str]] = {}
    for dense in list(dense_layers(graph, attention=recipe.attention)):
        source, name = dense.node.input[0], dense.node.name
        if source not in activations:
            made = graph.add_node("DynamicQuantizeLinear", [source], f"{name}_activation", outputs=3)
            activations[source] = list(made.output)
        small, scale, zero = activations[source]
        weight, weight_scale, weight_zero = _store(graph, dense, recipe, weights)
        product = graph.add_node("MatMulInteger", [small, weight, zero, weight_zero], f"{name}_quant")
        numbers = graph.add_node("Cast", product.output, f"{name}_Cast", to=TensorProto.FLOAT)
        scales = graph.add_node("Mul", [scale, weight_scale], f"{name}_scales")
        _replace(graph, dense, "Mul", [numbers.output[0], scales.output[0]], f"{name}_output_scale")


def quantize_static(graph: OnnxGraph, recipe: Recipe, weights: Weights, extremes: Mapping[str, Extremes]) -> None:
    """Quantise weights and activations with scales that are part of the file, as QuantizeLinear-DequantizeLinear pairs.

    No scale depends on the batch or its padding, so neither does the answer.
    """
    split_gemms(graph)
    activations: dict[str, str] = {}
    for dense in list(dense_layers(graph, attention=recipe.attention)):
        source, name = dense.node.input[0], dense.node.name
        if source not in activations:
            activations[source] = _fixed(graph, source, extremes[source].span(recipe.ranges), f"{name}_activation")
        weight, scale, zero = _store(graph, dense, recipe, weights)
        axis = {"axis": 1} if recipe.per_channel else {}
        numbers = graph.add_node("DequantizeLinear", [weight, scale, zero], f"{name}_weight", **axis)
        dense.node.input[0], dense.node.input[1] = activations[source], numbers.output[0]
    _quantize_tables(graph, recipe)


def _fixed(graph: OnnxGraph, source: str, span: tuple[float, float], name: str) -> str:
    """Round an activation to the steps of a range that includes 0; return the rounded tensor."""
    low, high = min(span[0], 0.0), max(span[1], 0.0)
    scale = np.float32((high - low) / _STEPS or 1.0)
    zero = np.uint8(np.clip(np.rint(-low / scale), 0, _STEPS))
    parameters = [graph.add_constant(f"{name}_scale", np.asarray(scale))]
    parameters.append(graph.add_constant(f"{name}_zero_point", np.asarray(zero)))
    small = graph.add_node("QuantizeLinear", [source, *parameters], f"{name}_QuantizeLinear")
    return str(graph.add_node("DequantizeLinear", [small.output[0], *parameters], f"{name}_DequantizeLinear").output[0])


def _store(graph: OnnxGraph, dense: Dense, recipe: Recipe, weights: Weights) -> tuple[str, str, str]:
    """Add a weight in 8 bits and return the names of its numbers, scales and zero points."""
    numbers, scale, zero = round_weight(dense.weight, recipe, weights)
    # Named after the weight where it has a name that says where it belongs, so that its bytes are counted there.
    name = dense.node.input[1] if "." in dense.node.input[1] else dense.node.name
    stored = [(f"{name}_quantized", numbers), (f"{name}_scale", scale), (f"{name}_zero_point", zero)]
    first, second, third = (graph.add_constant(key, value) for key, value in stored)
    return first, second, third


def round_weight(weight: Array, recipe: Recipe, weights: Weights) -> tuple[Array, Array, Array]:
    """Round a weight [K, N] to 8 bits.

    Returns:
        Integers [K, N]; scales and zero points, each [N], or [] with one scale for the matrix.
    """
    axis = 0 if recipe.per_channel else None
    largest = np.abs(weight).max(axis=axis)
    steps = 127 if recipe.unsigned else weights.largest
    scale = np.asarray(np.where(largest > 0, largest, 1) / steps, dtype=np.float32)
    numbers = np.clip(np.rint(weight / scale), -steps, steps)
    if recipe.unsigned:
        return (numbers + 128).astype(np.uint8), scale, np.full_like(scale, 128, dtype=np.uint8)
    return numbers.astype(np.int8), scale, np.zeros_like(scale, dtype=np.int8)


def _replace(graph: OnnxGraph, dense: Dense, operator: str, inputs: list[str], name: str) -> None:
    """Let a new node give what a dense layer gave."""
    graph.nodes.remove(dense.node)
    made = graph.add_node(operator, inputs, name)
    made.output[0] = dense.node.output[0]
    graph.producers[made.output[0]] = made


def _quantize_tables(graph: OnnxGraph, recipe: Recipe) -> None:
    if recipe.tables is not Tables.KEPT:
        quantize_tables(graph, recipe.tables)
