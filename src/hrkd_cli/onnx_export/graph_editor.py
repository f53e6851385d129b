"""What rewrites and quantizers need beside onnx-ir: constants, and what a file says of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from hrkd_cli import __version__


def constant(value: ir.Value | None) -> npt.NDArray[Any] | None:
    """Return the value of an initializer or Constant node, also behind an Identity; None for an activation."""
    while value is not None and (node := value.producer()) is not None and node.op_type == "Identity":
        value = node.inputs[0]
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None else tensor.numpy()


def int64_constant(graph: ir.Graph, values: Sequence[int]) -> ir.Value:
    """Add a constant to a graph, before all nodes."""
    node = ir.node("Constant", [], {"value": ir.tensor(np.array(values, dtype=np.int64))})
    graph.insert_before(graph[0], node)
    return node.outputs[0]


def to_proto(model: ir.Model) -> Any:
    """Return a ModelProto without recorded shapes of values: a rewrite may have changed them."""
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]
    return proto


def stamp(model: Any, precision: str, facts: Mapping[str, str]) -> None:
    """Write into a graph's metadata what made it, for a file that has lost its folder."""
    known = {"hrkd.version": __version__, "hrkd.precision": precision}
    known |= {f"hrkd.{name}": value for name, value in facts.items()}
    onnx.helper.set_model_props(model, known)
