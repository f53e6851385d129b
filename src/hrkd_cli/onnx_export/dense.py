"""Dense layers of a graph, and those of them that stay in fp32."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hrkd_cli.onnx_export.onnx_graph import Array, OnnxGraph, attribute
from hrkd_cli.onnx_export.parts import part_of


@dataclass(frozen=True, slots=True)
class Dense:
    """A product of an activation [..., K] and a weight [K, N]."""

    node: Any
    weight: Array


def split_gemms(graph: OnnxGraph) -> None:
    """Turn dense layers that are one Gemm into MatMul and Add, which the quantisers below know."""
    for node in list(graph.nodes):
        weight = graph.constants.get(node.input[1]) if node.op_type == "Gemm" else None
        plain = [attribute(node, name, default) for name, default in (("alpha", 1.0), ("beta", 1.0), ("transA", 0))]
        if weight is None or node.input[0] in graph.constants or plain != [1.0, 1.0, 0]:
            continue
        name = node.input[1]
        if attribute(node, "transB", 0):
            name = graph.add_constant(f"{name}_transposed", weight.T)
        product = graph.add_node("MatMul", [node.input[0], name], f"{node.name}_MatMul")
        if len(node.input) > 2:
            product = graph.add_node("Add", [product.output[0], node.input[2]], f"{node.name}_Add")
        graph.nodes.remove(node)
        product.output[0] = node.output[0]
        graph.producers[node.output[0]] = product


def dense_layers(graph: OnnxGraph, *, attention: bool = True) -> Iterator[Dense]:
    """Yield the dense layers.

    Args:
        graph: without Gemm (see ``split_gemms``).
        attention: whether those of attention are among them.
    """
    for node in list(graph.nodes):
        weight = graph.constants.get(node.input[1]) if node.op_type == "MatMul" else None
        if weight is None or weight.ndim != 2 or node.input[0] in graph.constants:
            continue
        if attention or part_of(node.name) != "attention":
            yield Dense(node, weight)
