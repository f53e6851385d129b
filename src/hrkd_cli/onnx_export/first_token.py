"""The last layer of a classifier that reads one token, computed for that token alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from hrkd_cli.onnx_export.masks import BIAS
from hrkd_cli.onnx_export.onnx_graph import OnnxGraph, attribute

# Each token by itself, as long as constants do not differ from token to token.
_ELEMENTWISE = frozenset({"Add", "Sum", "Sub", "Mul", "Div", "Erf", "Tanh", "Relu", "Sigmoid", "Pow", "Sqrt"})
_SWAP_TOKENS_AND_HEADS = [0, 2, 1, 3]
_SWAPPED = {1: 2, 2: 1}


def keep_first_token(graph: OnnxGraph) -> int:
    """Let everything between the last layer's input and the selection of token 0 work on that token alone.

    The head of a BERT classifier reads token 0 of the last layer, so the other tokens need that layer's keys and
    values only. The region is found backwards from the selection, through operators that treat tokens one by one and
    through attention on the side of the queries. Where a tensor is read outside too, its first token is cut out.

    Returns:
        1, or 0 where the region does not span a whole attention.
    """
    graph.prune()  # a shape that is not asked for any longer would count as a reader of all tokens
    for node in graph.nodes:
        index = graph.constants.get(node.input[1]) if node.op_type == "Gather" and len(node.input) > 1 else None
        if index is not None and index.ndim == 0 and int(index) == 0 and attribute(node, "axis", 0) == 1:
            region = _Region(graph, node)
            if region.products >= 2:
                region.cut()
                return 1
    return 0


class _Region:
    """The nodes that can work on one token.

    Attributes:
        products: how many products of two activations are among them: two make an attention.
    """

    def __init__(self, graph: OnnxGraph, selection: Any) -> None:
        self.graph = graph
        self.products = 0
        # By node: the inputs that hold one token, and on which axis tokens lie there.
        self._inside: dict[int, dict[str, int]] = {id(selection): {selection.input[0]: 1}}
        self._nodes: list[Any] = [selection]
        consumers = graph.consumers()
        for node in reversed(graph.nodes):
            self._consider(node, consumers[node.output[0]] if len(node.output) == 1 else [])

    def _consider(self, node: Any, readers: list[Any]) -> None:
        """Take a node in when all its readers want one token of it, on the same axis."""
        axes = {self._inside.get(id(reader), {}).get(node.output[0]) for reader in readers}
        if len(axes) != 1 or (axis := axes.pop()) is None:
            return
        found = self._inputs(node, axis)
        if found is not None:
            self._inside[id(node)] = found
            self._nodes.append(node)
            self.products += node.op_type == "MatMul" and len(self.graph.variable_inputs(node)) == 2

    def _inputs(self, node: Any, axis: int) -> dict[str, int] | None:
        """Return the inputs that may hold one token where the output does; None where the node needs all tokens."""
        variable = self.graph.variable_inputs(node)
        if not variable or (variable[0] != node.input[0] and node.op_type not in _ELEMENTWISE):
            return None
        if node.op_type in _ELEMENTWISE:
            numbers = [self.graph.constants[name] for name in node.input if name in self.graph.constants]
            alike = all(value.ndim <= 1 for value in numbers)
            return {name: axis for name in variable if name != BIAS} if alike else None
        if node.op_type == "MatMul" or (
            node.op_type in ("Softmax", "LayerNormalization") and attribute(node, "axis", -1) == -1
        ):
            return {variable[0]: axis}  # of attention's products the queries, then the weights
        if node.op_type == "Transpose" and attribute(node, "perm") == _SWAP_TOKENS_AND_HEADS:
            return {variable[0]: _SWAPPED[axis]}
        shape = self.graph.constants.get(node.input[1]) if node.op_type == "Reshape" else None
        if shape is not None and list(shape[:2]) == [0, 0] and axis == 1:
            return {variable[0]: 1}
        return None

    def cut(self) -> None:
        """Cut the first token out of every tensor that comes from outside."""
        made = {name for node in self._nodes for name in node.output}
        wanted: dict[tuple[str, int], list[Any]] = {}
        for node in self._nodes:
            for name, axis in self._inside[id(node)].items():
                if name not in made:
                    wanted.setdefault((name, axis), []).append(node)
        zero, one = (self.graph.add_constant(f"first_token_{n}", np.array([n], dtype=np.int64)) for n in (0, 1))
        for number, ((name, axis), nodes) in enumerate(wanted.items()):
            place = self.graph.add_constant(f"first_token_axis_{axis}", np.array([axis], dtype=np.int64))
            cut = self.graph.add_node("Slice", [name, zero, one, place], f"/first_token/Slice_{number}")
            self.graph.replace_input(nodes, name, cut.output[0])
