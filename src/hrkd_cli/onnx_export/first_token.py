"""The last layer of a classifier that reads one token, computed for that token alone."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from hrkd_cli.onnx_export.graph_editor import constant, int64_constant

# Applied to each token by itself, as long as constants do not differ between tokens.
_ELEMENTWISE = frozenset({"Add", "Sum", "Sub", "Mul", "Div", "Erf", "Tanh", "Relu", "Sigmoid", "Pow", "Sqrt"})
_SWAP_TOKENS_AND_HEADS = (0, 2, 1, 3)

_Narrowed = dict[ir.Node, dict[ir.Value, int]]
"""Nodes that can work on one token: for each, the inputs that then hold one token, and their axis of tokens."""


def keep_first_token(model: ir.Model) -> int:
    """Compute everything between the last layer's input and the selection of token 0 for that token alone.

    The head of a BERT classifier reads token 0 of the last layer, so only that layer's keys and values need the other
    tokens. The region is found backwards from the selection, through operators that treat tokens one by one and
    through attention on the side of the queries.

    Returns:
        1, or 0 where the region does not span a whole attention.
    """
    # A shape that is no longer read would count as a reader of all tokens.
    RemoveUnusedNodesPass()(model)
    graph = model.graph
    for node in graph:
        index = constant(node.inputs[1]) if node.op_type == "Gather" else None
        if index is not None and index.ndim == 0 and index.item() == 0 and _axis(node, 0) == 1:
            narrowed = _find_region(graph, node)
            products = [n for n in narrowed if n.op_type == "MatMul" and constant(n.inputs[1]) is None]
            if len(products) >= 2:  # scores and context
                _slice_inputs(graph, narrowed)
                return 1
    return 0


def _find_region(graph: ir.Graph, selection: ir.Node) -> _Narrowed:
    narrowed: _Narrowed = {selection: {selection.inputs[0]: 1}}
    for node in reversed(graph):
        output = node.outputs[0]
        axes = {narrowed.get(reader, {}).get(output) for reader in output.consumers()}
        # All readers must want one token of it, on the same axis.
        if len(node.outputs) > 1 or len(axes) != 1 or (axis := axes.pop()) is None:
            continue
        if (inputs := _narrowed_inputs(node, axis)) is not None:
            narrowed[node] = inputs
    return narrowed


def _narrowed_inputs(node: ir.Node, axis: int) -> dict[ir.Value, int] | None:
    """Return the inputs that hold one token where the output does; None where the node needs all tokens."""
    constants = [constant(value) for value in node.inputs]
    activations = [value for value, known in zip(node.inputs, constants, strict=True) if known is None]
    if node.op_type in _ELEMENTWISE:
        per_feature = all(known is None or known.ndim <= 1 for known in constants)
        return dict.fromkeys(activations, axis) if per_feature and activations else None
    if constants[0] is not None:
        return None
    first = node.inputs[0]
    # Of the two products of attention this is the queries, then the weights.
    if node.op_type == "MatMul" or (node.op_type in ("Softmax", "LayerNormalization") and _axis(node, -1) == -1):
        return {first: axis}
    if node.op_type == "Transpose" and tuple(node.attributes["perm"].as_ints()) == _SWAP_TOKENS_AND_HEADS:
        return {first: 3 - axis}
    if node.op_type == "Reshape" and constants[1] is not None and list(constants[1][:2]) == [0, 0] and axis == 1:
        return {first: 1}
    return None


def _slice_inputs(graph: ir.Graph, narrowed: _Narrowed) -> None:
    """Slice the first token out of every value that enters the region."""
    entering: dict[tuple[ir.Value, int], list[ir.Node]] = {}
    for node, inputs in narrowed.items():
        for value, axis in inputs.items():
            if value.producer() not in narrowed:
                entering.setdefault((value, axis), []).append(node)
    for (value, axis), readers in entering.items():
        start, end, axes = (int64_constant(graph, [number]) for number in (0, 1, axis))
        cut = ir.node("Slice", [value, start, end, axes], name=f"/first_token/{value.name}/Slice")
        graph.append(cut)
        for reader in readers:
            for index, old in enumerate(reader.inputs):
                if old is value:
                    reader.replace_input_with(index, cut.outputs[0])
    graph.sort()


def _axis(node: ir.Node, default: int) -> int:
    found = node.attributes.get("axis")
    return default if found is None else found.as_int()
