"""An ONNX graph that can be looked at from any node and changed in place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import helper, numpy_helper

Array = npt.NDArray[Any]


class OnnxGraph:
    """Producers, consumers and constants of a graph by tensor name.

    Attributes:
        model: the ModelProto; nodes are taken over from it and put back by ``finish``.
        nodes: in the order of the file; new ones may stand anywhere, ``finish`` sorts.
        constants: initialisers and the values of Constant nodes by name, Identity looked through.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.nodes: list[Any] = list(model.graph.node)
        self.constants: dict[str, Array] = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        for node in self.nodes:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
            elif node.op_type == "Identity" and node.input[0] in self.constants:
                self.constants[node.output[0]] = self.constants[node.input[0]]
        self.producers: dict[str, Any] = {name: node for node in self.nodes for name in node.output}

    def producer(self, tensor: str, *operators: str) -> Any | None:
        """Return the node that makes a tensor, if it is one of the operators (of any, when none is named)."""
        node = self.producers.get(tensor)
        return node if node is not None and (not operators or node.op_type in operators) else None

    def consumers(self) -> dict[str, list[Any]]:
        """Return the nodes that read each tensor."""
        found: dict[str, list[Any]] = defaultdict(list)
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                found[name].append(node)
        return found

    def variable_inputs(self, node: Any) -> list[str]:
        """Return the inputs of a node that are not constants."""
        return [name for name in node.input if name and name not in self.constants]

    def split_constant(self, node: Any | None) -> tuple[str, str] | None:
        """Return the variable and the constant input of a node that has one of each, in either order."""
        if node is None or len(node.input) != 2:
            return None
        variable = self.variable_inputs(node)
        if len(variable) != 1:
            return None
        constant = node.input[1] if node.input[0] == variable[0] else node.input[0]
        return variable[0], constant

    def add_constant(self, name: str, value: Array) -> str:
        """Add an initialiser and return its name, that of one which is there already with the same value."""
        known = self.constants.get(name)
        if known is None:
            self.model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
            self.constants[name] = value
        elif known.dtype != value.dtype or not np.array_equal(known, value):
            return self.add_constant(name + "_", value)
        return name

    def add_tensor(self, tensor: Any) -> None:
        """Add an initialiser whose type numpy does not have."""
        self.model.graph.initializer.append(tensor)

    def add_node(self, operator: str, inputs: Sequence[str], name: str, *, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node named ``name`` whose outputs are called after it; underscores make a name that is taken unique."""
        while f"{name}_output_0" in self.producers:
            name += "_"
        made = [f"{name}_output_{index}" for index in range(outputs)]
        node = helper.make_node(operator, list(inputs), made, name=name, **attributes)
        self.nodes.append(node)
        self.producers.update(dict.fromkeys(made, node))
        return node

    def replace_input(self, nodes: Iterable[Any], old: str, new: str) -> None:
        """Let nodes read another tensor."""
        for node in nodes:
            for index, name in enumerate(node.input):
                if name == old:
                    node.input[index] = new

    def ancestors(self, tensor: str, *, but: str = "") -> tuple[list[Any], set[str]]:
        """Return the nodes that a tensor comes from, in the order of the file, and the graph inputs among them.

        Args:
            tensor: where to start.
            but: an operator whose own inputs are not followed.
        """
        inputs = {entry.name for entry in self.model.graph.input}
        seen: set[str] = set()
        found: set[int] = set()
        waiting = [tensor]
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            if (node := self.producers.get(name)) is not None:
                found.add(id(node))
                waiting += node.input if node.op_type != but else []
        return [node for node in self.nodes if id(node) in found], inputs & seen

    def prune(self) -> None:
        """Drop the nodes that nothing needs, and put the others in an order that can be run."""
        used: set[int] = set()
        order: list[Any] = []
        # Depth first: a node goes after all that it reads.
        stack = [(entry.name, False) for entry in reversed(self.model.graph.output)]
        while stack:
            name, ready = stack.pop()
            node = self.producers.get(name)
            if node is None or (id(node) in used):
                continue
            if ready:
                used.add(id(node))
                order.append(node)
                continue
            stack.append((name, True))
            stack += [(item, False) for item in reversed(node.input)]
        self.nodes = order

    def finish(self) -> Any:
        """Prune, drop the initialisers that nothing reads, and return the model."""
        self.prune()
        outputs = {entry.name for entry in self.model.graph.output}
        read = {name for node in self.nodes for name in node.input} | outputs
        kept = [tensor for tensor in self.model.graph.initializer if tensor.name in read]
        del self.model.graph.node[:], self.model.graph.initializer[:], self.model.graph.value_info[:]
        self.model.graph.node.extend(self.nodes)
        self.model.graph.initializer.extend(kept)
        return self.model


def attribute(node: Any, name: str, default: Any = None) -> Any:
    """Return the value of a node's attribute."""
    for entry in node.attribute:
        if entry.name == name:
            return helper.get_attribute_value(entry)
    return default
