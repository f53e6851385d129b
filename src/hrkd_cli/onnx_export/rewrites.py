"""Graph rewrites that replace operators of a traced encoder with fewer and cheaper ones that give the same logits.

They use standard operators only, so every runtime opens the result. docs/ablations.md lists their effects. A
rewrite matches a pattern that the exporter writes, and skips what it does not match.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from hrkd_cli.models.loading import quiet_libraries
from hrkd_cli.onnx_export.graph_editor import (
    OnnxFormat,
    add_int64_constant,
    constant_value,
    set_metadata,
    to_proto,
)

# Computed for each token separately, provided that constants are the same for all tokens.
_ELEMENTWISE = frozenset({"Add", "Sum", "Sub", "Mul", "Div", "Erf", "Tanh", "Relu", "Sigmoid", "Pow", "Sqrt"})
_SWAP_TOKENS_AND_HEADS = (0, 2, 1, 3)

_Region = dict[ir.Node, dict[ir.Value, int]]
"""Nodes that can be computed for one token: for each, the inputs that then hold one token, and their token axis."""


def rewrite_file(path: Path) -> dict[str, int]:
    """Apply ``rewrite`` to an ONNX file in place."""
    model = ir.load(path)
    with quiet_libraries():
        counts = rewrite(model)
    proto = to_proto(model)
    applied = ", ".join(name for name, count in counts.items() if count)
    set_metadata(proto, OnnxFormat.FP32, {"rewrites": applied})
    onnx.save(proto, str(path))
    return counts


def constant_shapes(model: ir.Model) -> int:
    """Replace reshape targets that are computed at run time by constants: [0, 0, heads, width] or [0, 0, width].

    A 0 keeps the size of the input: batch size and number of tokens.
    """
    count = 0
    for node in model.graph:
        concat = node.inputs[1].producer() if node.op_type == "Reshape" else None
        if concat is None or concat.op_type != "Concat":
            continue
        entries = [_reshape_entry(value, axis) for axis, value in enumerate(concat.inputs)]
        shape = [entry for entry in entries if entry is not None]
        # An entry of None may be the size of another tensor. At most one entry may be inferred (-1).
        if len(shape) < len(entries) or shape[:2] != [0, 0] or shape.count(-1) > 1:
            continue
        node.replace_input_with(1, add_int64_constant(model.graph, shape))
        count += 1
    return count


def _reshape_entry(value: ir.Value, axis: int) -> int | None:
    """Return one entry of a reshape target: a constant, or 0 for the run-time size of the same axis (0 or 1)."""
    if (number := constant_value(value)) is not None:
        return int(number.item()) if number.size == 1 and number.item() != 0 else None
    node = value.producer()
    for op_type in ("Unsqueeze", "Gather"):
        if node is None or node.op_type != op_type:
            return None
        index = constant_value(node.inputs[1])
        node = node.inputs[0].producer()
    if node is None or node.op_type != "Shape" or index is None or axis > 1:
        return None
    return 0 if index.size == 1 and index.item() == axis else None


def separate_residuals(model: ir.Model) -> int:
    """Turn the residual addition before each norm from Add into Sum, which onnxruntime does not fuse.

    It fuses Add and LayerNormalization into SkipLayerNormalization, which can take five times as long as the two.
    """
    count = 0
    for node in model.graph:
        add = node.inputs[0].producer() if node.op_type == "LayerNormalization" else None
        if add is not None and add.op_type == "Add" and all(constant_value(value) is None for value in add.inputs):
            add.op_type = "Sum"
            count += 1
    return count


def keep_first_token(model: ir.Model) -> int:
    """Compute everything between the last layer's input and the selection of token 0 for that token alone.

    The head of a BERT classifier reads token 0 of the last layer, so only that layer's keys and values need the other
    tokens. The region is traced backward from the selection, through operators that act on each token separately and
    through the query side of attention.

    Returns:
        1, or 0 if the region does not include a whole attention.
    """
    # An unused Shape node would count as a reader of all tokens.
    RemoveUnusedNodesPass()(model)
    graph = model.graph
    for node in graph:
        index = constant_value(node.inputs[1]) if node.op_type == "Gather" else None
        if index is not None and index.ndim == 0 and index.item() == 0 and _axis(node, 0) == 1:
            region = _find_region(graph, node)
            products = [n for n in region if n.op_type == "MatMul" and constant_value(n.inputs[1]) is None]
            if len(products) >= 2:  # attention scores and context
                _slice_inputs(graph, region)
                return 1
    return 0


def _find_region(graph: ir.Graph, selection: ir.Node) -> _Region:
    region: _Region = {selection: {selection.inputs[0]: 1}}
    for node in reversed(graph):
        output = node.outputs[0]
        axes = {region.get(reader, {}).get(output) for reader in output.consumers()}
        # All readers must need one token of the output, on the same axis.
        if len(node.outputs) > 1 or len(axes) != 1 or (axis := axes.pop()) is None:
            continue
        if (inputs := _one_token_inputs(node, axis)) is not None:
            region[node] = inputs
    return region


def _one_token_inputs(node: ir.Node, axis: int) -> dict[ir.Value, int] | None:
    """Return the inputs that hold one token if the output does, and their token axes; None if all tokens are needed."""
    constants = [constant_value(value) for value in node.inputs]
    activations = [value for value, number in zip(node.inputs, constants, strict=True) if number is None]
    if node.op_type in _ELEMENTWISE:
        per_feature = all(number is None or number.ndim <= 1 for number in constants)
        return dict.fromkeys(activations, axis) if per_feature and activations else None
    if constants[0] is not None:
        return None
    first = node.inputs[0]
    # In attention's two products, the first input is the queries, then the attention weights.
    if node.op_type == "MatMul" or (node.op_type in ("Softmax", "LayerNormalization") and _axis(node, -1) == -1):
        return {first: axis}
    if node.op_type == "Transpose" and tuple(node.attributes["perm"].as_ints()) == _SWAP_TOKENS_AND_HEADS:
        return {first: 3 - axis}
    if node.op_type == "Reshape" and constants[1] is not None and list(constants[1][:2]) == [0, 0] and axis == 1:
        return {first: 1}
    return None


def _slice_inputs(graph: ir.Graph, region: _Region) -> None:
    """Slice the first token out of every value that enters the region."""
    region_inputs: dict[tuple[ir.Value, int], list[ir.Node]] = {}
    for node, inputs in region.items():
        for value, axis in inputs.items():
            if value.producer() not in region:
                region_inputs.setdefault((value, axis), []).append(node)
    for (value, axis), readers in region_inputs.items():
        start, end, axes = (add_int64_constant(graph, [number]) for number in (0, 1, axis))
        first_token = ir.node("Slice", [value, start, end, axes], name=f"/first_token/{value.name}/Slice")
        graph.append(first_token)
        for reader in readers:
            for index, old in enumerate(reader.inputs):
                if old is value:
                    reader.replace_input_with(index, first_token.outputs[0])
    graph.sort()


def _axis(node: ir.Node, default: int) -> int:
    attribute = node.attributes.get("axis")
    return default if attribute is None else attribute.as_int()


REWRITES: dict[str, Callable[[ir.Model], int]] = {
    "constant_shapes": constant_shapes,
    "first_token": keep_first_token,
    "separate_residuals": separate_residuals,
}


def rewrite(model: ir.Model, names: Iterable[str] = tuple(REWRITES)) -> dict[str, int]:
    """Apply rewrites to a graph in place, and return how often each applied."""
    counts = {name: REWRITES[name](model) for name in names}
    RemoveUnusedNodesPass()(model)
    return counts
