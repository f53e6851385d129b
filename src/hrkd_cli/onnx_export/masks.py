"""The attention mask of a traced encoder, made directly from ``attention_mask``."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from hrkd_cli.onnx_export.onnx_graph import Array, OnnxGraph

MASK = "attention_mask"
BIAS = "attention_mask_bias"
_SILENT = 4  # a mask that cannot be computed alone is left as it is
# Longer than a local attention's window would be missed by a short probe alone.
_PROBES = ((1, 1), (1, 5), (2, 9), (3, 300))


def plain_masks(graph: OnnxGraph) -> int:
    """Let every softmax whose mask depends on ``attention_mask`` alone add one bias of [B, 1, 1, T].

    The exporter builds a [B, 1, T, T] mask in 60 operators. A mask is replaced only when it gives the bias's numbers
    for several masks: local attention, or any other mask, stays.
    """
    places = [(add, tensor) for add, tensor in _masks(graph) if _depends_on_mask_only(graph, tensor)]
    tensors = sorted({tensor for _, tensor in places})
    equal = {tensor for tensor in tensors if _is_plain(graph, tensor)}
    if not equal:
        return 0
    lowest = float(np.finfo(np.float32).min)
    numbers = graph.add_node("Cast", [MASK], "/mask/Cast", to=TensorProto.FLOAT)
    axes = graph.add_constant("/mask/axes", np.array([1, 2], dtype=np.int64))
    rows = graph.add_node("Unsqueeze", [numbers.output[0], axes], "/mask/Unsqueeze")
    one = graph.add_constant("/mask/one", np.array(1, dtype=np.float32))
    hidden = graph.add_node("Sub", [one, rows.output[0]], "/mask/Sub")
    scale = graph.add_constant("/mask/lowest", np.array(lowest, dtype=np.float32))
    bias = graph.add_node("Mul", [hidden.output[0], scale], "/mask/Mul")
    bias.output[0] = BIAS
    graph.producers[BIAS] = bias
    changed = 0
    for add, tensor in places:
        if tensor in equal:
            graph.replace_input([add], tensor, BIAS)
            changed += 1
    return changed


def _masks(graph: OnnxGraph) -> list[tuple[Any, str]]:
    """Return the additions in front of a softmax, and the input of each that is not a product of activations."""
    found = []
    for node in graph.nodes:
        add = graph.producer(node.input[0], "Add") if node.op_type == "Softmax" else None
        if add is not None:
            found += [(add, name) for name in add.input if name not in graph.constants and name != BIAS]
    return found


def _depends_on_mask_only(graph: OnnxGraph, tensor: str) -> bool:
    """Whether a tensor comes from the mask and from shapes, with no weights on the way."""
    nodes, inputs = graph.ancestors(tensor, but="Shape")
    return inputs == {MASK} and not any(node.op_type in ("MatMul", "Gemm", "Softmax") for node in nodes)


def _is_plain(graph: OnnxGraph, tensor: str) -> bool:
    """Whether a mask is 0 where ``attention_mask`` is 1 and the lowest number elsewhere, alike for all queries."""
    session = _part(graph, tensor)
    random = np.random.default_rng(0)
    for batch, tokens in _PROBES:
        valid = random.integers(1, tokens + 1, size=(batch, 1))
        mask = (np.arange(tokens)[None] < valid).astype(np.int64)
        try:
            found: Array = session.run(None, {MASK: mask})[0]
        # onnxruntime has an exception class of its own for every status code, with no common base.
        except Exception:
            return False
        bias = np.where(mask, np.float32(0), np.finfo(np.float32).min)[:, None, None, :]
        if found.ndim != 4 or not np.array_equal(found, np.broadcast_to(bias, found.shape)):
            return False
    return True


def _part(graph: OnnxGraph, tensor: str) -> onnxruntime.InferenceSession:
    """Return a session that computes one tensor from the mask; shapes of others are taken to be the mask's.

    The exporter asks the hidden states [B, T, W] for B and T. That they are the mask's own is checked where the whole
    graph is compared with torch.
    """
    nodes = []
    for node in graph.ancestors(tensor, but="Shape")[0]:
        if node.op_type == "Shape" and MASK not in graph.ancestors(node.input[0])[1]:
            node = helper.make_node("Shape", [MASK], list(node.output))
        nodes.append(node)
    read = {name for node in nodes for name in node.input}
    made = {name for node in nodes for name in node.output}
    needed = read - made - {MASK, ""}
    for name in sorted(needed - set(graph.constants)):
        nodes = [*graph.ancestors(name)[0], *nodes]
    part = helper.make_graph(
        list({id(node): node for node in nodes}.values()),
        "mask",
        [entry for entry in graph.model.graph.input if entry.name == MASK],
        [helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None)],
        [entry for entry in graph.model.graph.initializer if entry.name in read],
    )
    model = helper.make_model(part, opset_imports=graph.model.opset_import, ir_version=graph.model.ir_version)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _SILENT
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
