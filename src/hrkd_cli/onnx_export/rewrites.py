"""Rewrites of a traced encoder into fewer and cheaper operators that give the same logits.

Only standard operators, so every runtime opens the result. docs/performance.md says what each saves. A rewrite looks
for a pattern of the exporter's and skips what it does not find.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from hrkd_cli.onnx_export.graph_editor import constant, int64_constant, quiet, stamp, to_proto
from hrkd_cli.onnx_export.recipes import Precision

# Applied to each token by itself, as long as constants do not differ between tokens.
_ELEMENTWISE = frozenset({"Add", "Sum", "Sub", "Mul", "Div", "Erf", "Tanh", "Relu", "Sigmoid", "Pow", "Sqrt"})
_SWAP_TOKENS_AND_HEADS = (0, 2, 1, 3)

_Narrowed = dict[ir.Node, dict[ir.Value, int]]
"""Nodes that can work on one token: for each, the inputs that then hold one token, and their axis of tokens."""


def rewrite_file(path: Path) -> dict[str, int]:
    """Rewrite an ONNX file in place; see ``rewrite``."""
    model = ir.load(path)
    with quiet():
        counts = rewrite(model)
    proto = to_proto(model)
    stamp(proto, Precision.FP32, {"rewrites": ", ".join(name for name, count in counts.items() if count)})
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
        found = [_size(value, axis) for axis, value in enumerate(concat.inputs)]
        sizes = [size for size in found if size is not None]
        # A size taken from elsewhere is not this tensor's own; only one may be inferred.
        if len(sizes) < len(found) or sizes[:2] != [0, 0] or sizes.count(-1) > 1:
            continue
        node.replace_input_with(1, int64_constant(model.graph, sizes))
        count += 1
    return count


def _size(value: ir.Value, axis: int) -> int | None:
    """Return one entry of a shape: a constant, or 0 where it is the size of that axis at run time (axes 0 and 1)."""
    if (known := constant(value)) is not None:
        return int(known.item()) if known.size == 1 and known.item() != 0 else None
    node = value.producer()
    for operator in ("Unsqueeze", "Gather"):
        if node is None or node.op_type != operator:
            return None
        index = constant(node.inputs[1])
        node = node.inputs[0].producer()
    if node is None or node.op_type != "Shape" or index is None or axis > 1:
        return None
    return 0 if index.size == 1 and index.item() == axis else None


def separate_residuals(model: ir.Model) -> int:
    """Turn the addition of two activations before a norm into Sum, which onnxruntime does not fuse.

    It fuses Add and LayerNormalization into SkipLayerNormalization, which can take five times as long as the two.
    """
    count = 0
    for node in model.graph:
        add = node.inputs[0].producer() if node.op_type == "LayerNormalization" else None
        if add is not None and add.op_type == "Add" and all(constant(value) is None for value in add.inputs):
            add.op_type = "Sum"
            count += 1
    return count


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
