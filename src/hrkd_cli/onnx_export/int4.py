"""Dense layers and embedding tables in 4 bits, for size: operators of onnxruntime's own."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper

from hrkd_cli.onnx_export.dense import Dense, dense_layers, split_gemms
from hrkd_cli.onnx_export.int8 import quantize_dense
from hrkd_cli.onnx_export.onnx_graph import OnnxGraph
from hrkd_cli.onnx_export.recipes import Recipe
from hrkd_cli.onnx_export.tables import CONTRIB, blocks_of_4_bits, quantize_tables_int4
from hrkd_cli.onnx_export.targets import Weights

INT8_ARITHMETIC = 4
"""onnxruntime's accuracy_level: activations are rounded to int8, each row and block by itself; faster than fp32."""


def quantize_int4(graph: OnnxGraph, recipe: Recipe, weights: Weights) -> None:
    """Store dense weights in 4 bits with a scale and a zero point a block, and embedding tables alike.

    Where the recipe says so dense weights are in 8 bits, stored as ``weights`` says, and tables alone in 4.
    """
    if recipe.dense_bits == 8:
        quantize_dense(graph, recipe, weights)
    else:
        split_gemms(graph)
        for dense in list(dense_layers(graph, attention=recipe.attention)):
            _replace(graph, dense, recipe.block)
    quantize_tables_int4(graph)
    _import_contrib(graph.model)


def _replace(graph: OnnxGraph, dense: Dense, block: int) -> None:
    """Put a MatMulNBits in the place of a dense layer."""
    inner, outer = dense.weight.shape
    numbers, scales, zeros = blocks_of_4_bits(dense.weight.T, block)
    blocks = scales.shape[1]
    # [N, blocks, block / 2] bytes: the last block of a column is filled up.
    filled = np.zeros((outer, blocks * block), dtype=np.uint8)
    filled[:, :inner] = numbers
    packed = _pairs(filled).reshape(outer, blocks, block // 2)
    even = np.zeros((outer, blocks + blocks % 2), dtype=np.uint8)
    even[:, :blocks] = zeros
    name = dense.node.input[1] if "." in dense.node.input[1] else dense.node.name
    new = helper.make_node(
        "MatMulNBits",
        [
            dense.node.input[0],
            graph.add_constant(f"{name}_q4", packed),
            graph.add_constant(f"{name}_scale", scales.ravel()),
            graph.add_constant(f"{name}_zero_point", _pairs(even).ravel()),
        ],
        list(dense.node.output),
        name=dense.node.name,
        domain=CONTRIB,
        K=inner,
        N=outer,
        bits=4,
        block_size=block,
        accuracy_level=INT8_ARITHMETIC,
    )
    graph.nodes[graph.nodes.index(dense.node)] = new
    graph.producers[new.output[0]] = new


def _pairs(rows: Any) -> Any:
    """Pack two neighbours of a row into a byte, the first in the lower half."""
    return (rows[:, 0::2] | (rows[:, 1::2] << 4)).astype(np.uint8)


def _import_contrib(model: Any) -> None:
    if not any(entry.domain == CONTRIB for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(CONTRIB, 1))
