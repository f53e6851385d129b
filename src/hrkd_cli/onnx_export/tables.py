"""Embedding tables in fewer bits, looked up before they are turned back into numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from hrkd_cli.onnx_export.onnx_graph import Array, OnnxGraph, attribute
from hrkd_cli.onnx_export.recipes import Tables

BLOCK = 32
CONTRIB = "com.microsoft"


def quantize_tables(graph: OnnxGraph, mode: Tables) -> None:
    """Store tables in int8, with one scale and zero point each, or a scale for every row (``Tables.ROW``)."""
    for node, table in list(_tables(graph)):
        small, scale, zero = round_table(table, mode)
        name, found = node.input[0], node.output[0]
        node.input[0] = graph.add_constant(f"{name}_quantized", small)
        scales = graph.add_constant(f"{name}_scale", scale)
        node.output[0] = f"{found}_quantized"
        graph.producers[node.output[0]] = node
        if mode is Tables.ROW:
            rows = graph.add_node("Gather", [scales, node.input[1]], f"{node.name}_scales", axis=0)
            numbers = graph.add_node("Cast", [node.output[0]], f"{node.name}_Cast", to=TensorProto.FLOAT)
            last = graph.add_node("Mul", [numbers.output[0], rows.output[0]], f"{node.name}_Mul")
        else:
            inputs = [node.output[0], scales, graph.add_constant(f"{name}_zero_point", zero)]
            last = graph.add_node("DequantizeLinear", inputs, f"{node.name}_DequantizeLinear")
        last.output[0] = found
        graph.producers[found] = last


def round_table(table: Array, mode: Tables) -> tuple[Array, Array, Array]:
    """Round a table [V, W] to int8.

    Returns:
        Integers [V, W]; scales and zero points, [] for the table, or [V, 1] with zero points of 0 for its rows.
    """
    if mode is Tables.ROW:
        largest = np.abs(table).max(axis=1, keepdims=True)
        scale = np.asarray(np.where(largest > 0, largest, 1) / 127, dtype=np.float32)
        return np.rint(table / scale).astype(np.int8), scale, np.zeros_like(scale, dtype=np.int8)
    # One scale for all: values of one sign reach further than those of the other in trained tables.
    low, high = min(float(table.min()), 0.0), max(float(table.max()), 0.0)
    scale = np.asarray((high - low) / 255 or 1.0, dtype=np.float32)
    zero = np.rint(-low / scale) - 128
    return np.clip(np.rint(table / scale) + zero, -128, 127).astype(np.int8), scale, np.asarray(zero, dtype=np.int8)


def quantize_tables_int4(graph: OnnxGraph) -> None:
    """Store tables in 4 bits, a scale and a zero point for every ``BLOCK`` numbers of a row."""
    for node, table in list(_tables(graph)):
        packed, scales, zeros = blocks_of_4_bits(table, BLOCK)
        name = node.input[0]
        inputs = [f"{name}_q4", node.input[1], f"{name}_scale", f"{name}_zero_point"]
        graph.add_tensor(helper.make_tensor(inputs[0], TensorProto.UINT4, table.shape, pack(packed), raw=True))
        graph.add_constant(inputs[2], scales)
        graph.add_tensor(helper.make_tensor(inputs[3], TensorProto.UINT4, zeros.shape, pack(zeros), raw=True))
        new = helper.make_node(
            "GatherBlockQuantized", inputs, list(node.output), name=node.name, domain=CONTRIB,
            gather_axis=0, quantize_axis=1, block_size=BLOCK,
        )  # fmt: skip
        graph.nodes[graph.nodes.index(node)] = new
        graph.producers[new.output[0]] = new


def blocks_of_4_bits(rows: Array, block: int) -> tuple[Array, Array, Array]:
    """Quantise rows to 0..15 in blocks.

    Args:
        rows: numbers, [R, K].
        block: numbers that share a scale; the last block of a row may be shorter.

    Returns:
        The integers [R, K], the scales [R, blocks] and the zero points [R, blocks], so that a number is about
        ``(integer - zero point) * scale``.
    """
    count, width = rows.shape
    blocks = -(-width // block)
    padded = np.zeros((count, blocks * block), dtype=np.float32)
    padded[:, :width] = rows
    grouped = padded.reshape(count, blocks, block)
    # 0 must be one of the steps: it is what padding holds.
    low = np.minimum(grouped.min(axis=2), 0)
    high = np.maximum(grouped.max(axis=2), 0)
    scale = np.where(high > low, (high - low) / 15, 1).astype(np.float32)
    zero = np.clip(np.rint(-low / scale), 0, 15)
    found = np.clip(np.rint(grouped / scale[..., None]) + zero[..., None], 0, 15)
    return found.reshape(count, -1)[:, :width].astype(np.uint8), scale, zero.astype(np.uint8)


def pack(numbers: Array) -> bytes:
    """Put two 4-bit numbers into each byte, the first in the lower half."""
    flat = numbers.ravel()
    flat = np.append(flat, np.zeros(flat.size % 2, dtype=np.uint8))
    packed: Array = flat[0::2] | (flat[1::2] << 4)
    return packed.astype(np.uint8).tobytes()


def _tables(graph: OnnxGraph) -> Iterator[tuple[Any, Array]]:
    """Yield the lookups of embedding tables, and the tables."""
    for node in graph.nodes:
        table = graph.constants.get(node.input[0]) if node.op_type == "Gather" else None
        if table is not None and table.dtype == np.float32 and table.ndim == 2 and attribute(node, "axis", 0) == 0:
            yield node, table
