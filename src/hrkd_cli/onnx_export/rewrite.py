"""A traced encoder rewritten into fewer and cheaper operators that give the same logits.

Standard operators only, so that every runtime opens the result; what pays was measured (docs/performance.md). Each
rewrite looks for a pattern of the exporter's and leaves alone what it does not find.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from hrkd_cli.evaluation.graph import read_graph
from hrkd_cli.onnx_export.first_token import keep_first_token
from hrkd_cli.onnx_export.masks import plain_masks
from hrkd_cli.onnx_export.onnx_graph import Array, OnnxGraph, attribute
from hrkd_cli.onnx_export.recipes import Precision
from hrkd_cli.onnx_export.record import stamp

HEADS_FIRST = [0, 2, 1, 3]
KEYS_TRANSPOSED = [0, 2, 3, 1]


def rewrite_file(path: Path) -> dict[str, int]:
    """Rewrite an ONNX file in place; see ``rewrite``."""
    model = read_graph(path)
    counts = rewrite(model)
    stamp(model, Precision.FP32, {"rewrites": ", ".join(name for name, count in counts.items() if count)})
    onnx.save(model, str(path))
    return counts


def rewrite(model: Any) -> dict[str, int]:
    """Rewrite a graph in place, and return how often each rewrite applied.

    - ``constant_shapes``: reshapes to ``[0, 0, heads, width]``, whose shapes were put together at run time.
    - ``plain_masks``: the mask made from ``attention_mask`` alone, [B, 1, 1, T].
    - ``first_token``: a last layer that computes only the token that the head reads.
    - ``merged_projections``: one product for queries, keys and values.
    - ``separate_residuals``: residual additions that onnxruntime does not fuse into its slow SkipLayerNormalization.
    """
    graph = OnnxGraph(model)
    counts = {
        "constant_shapes": constant_shapes(graph),
        "plain_masks": plain_masks(graph),
        "first_token": keep_first_token(graph),
        "merged_projections": merge_projections(graph),
        "separate_residuals": separate_residuals(graph),
    }
    graph.finish()
    return counts


def constant_shapes(graph: OnnxGraph) -> int:
    """Give reshapes whose batch and token counts are taken from a shape the constant 0, which means "as it was"."""
    count = 0
    for node in graph.nodes:
        if node.op_type != "Reshape" or node.input[1] in graph.constants:
            continue
        concat = graph.producer(node.input[1], "Concat")
        if concat is None:
            continue
        sizes = [_size(graph, name, place) for place, name in enumerate(concat.input)]
        if sizes[:2] == [0, -1] and all(size is not None and size > 0 for size in sizes[2:]):
            sizes[1] = 0  # transformers 4: the width is given, so that what is inferred is the tokens
        # A size taken from elsewhere is not this tensor's own; of one that is inferred there may be one only.
        if None in sizes or sizes[:2] != [0, 0] or sizes.count(-1) > 1:
            continue
        shape = np.array(sizes, dtype=np.int64)
        node.input[1] = graph.add_constant(f"shape_{'_'.join(map(str, sizes))}", shape)
        count += 1
    _fold_widths(graph)
    return count


def _fold_widths(graph: OnnxGraph) -> None:
    """Compute what follows from the width of a head, which transformers 4 asks a shape for when the graph runs."""
    consumers = graph.consumers()
    for node in list(graph.nodes):
        value = _head_width(graph, node) if node.op_type == "Slice" else None
        values = [graph.constants.get(name) for name in node.input]
        if node.op_type in ("Cast", "Sqrt", "Div") and all(v is not None and v.size == 1 for v in values):
            known = [v for v in values if v is not None]
            if node.op_type == "Cast":
                value = known[0].astype(helper.tensor_dtype_to_np_dtype(attribute(node, "to")))
            else:
                value = np.sqrt(known[0]) if node.op_type == "Sqrt" else known[0] / known[1]
        if value is not None:
            name = graph.add_constant(f"{node.output[0]}_folded", value)
            graph.replace_input(consumers[node.output[0]], node.output[0], name)


def _head_width(graph: OnnxGraph, node: Any) -> Array | None:
    """Return the last size of a tensor [B, heads, T, width], if that is what a Slice gives."""
    start = graph.constants.get(node.input[1])
    shape = graph.producer(node.input[0], "Shape")
    turned = graph.producer(shape.input[0], "Transpose") if shape is not None else None
    reshape = graph.producer(turned.input[0], "Reshape") if turned is not None else None
    sizes = graph.constants.get(reshape.input[1]) if reshape is not None else None
    if start is None or start.tolist() != [-1] or sizes is None or sizes.size != 4 or sizes[3] < 1:
        return None
    return sizes[3:] if attribute(turned, "perm") == HEADS_FIRST else None


def _size(graph: OnnxGraph, tensor: str, place: int) -> int | None:
    """Return one entry of a shape: its number, or 0 for batch (place 0) and token count (place 1) at run time."""
    if tensor in graph.constants:
        value = graph.constants[tensor].ravel()
        return int(value[0]) if value.size == 1 and value[0] != 0 else None
    unsqueeze = graph.producer(tensor, "Unsqueeze")
    gather = graph.producer(unsqueeze.input[0], "Gather") if unsqueeze is not None else None
    if gather is None or graph.producer(gather.input[0], "Shape") is None or place > 1:
        return None
    index = graph.constants.get(gather.input[1])
    return 0 if index is not None and index.size == 1 and int(index.ravel()[0]) == place else None


def merge_projections(graph: OnnxGraph) -> int:
    """Make one product of those dense layers of one tensor whose outputs are split into heads."""
    groups: dict[str, list[_Projection]] = {}
    for node in graph.nodes:
        if node.op_type == "Transpose" and (found := _projection(graph, node)) is not None:
            groups.setdefault(found.source, []).append(found)
    count = 0
    for source, members in groups.items():
        if len(members) > 1 and len({m.width for m in members}) == 1:
            _merge(graph, source, members)
            count += 1
    return count


class _Projection:
    """A dense layer whose output is reshaped to [B, T, heads, width] and transposed."""

    def __init__(self, graph: OnnxGraph, source: str, matmul: Any, bias: str, transpose: Any, width: int) -> None:
        self.source = source
        self.weight: Array = graph.constants[matmul.input[1]]
        self.bias: Array = graph.constants[bias]
        self.name: str = matmul.name
        self.transpose = transpose
        self.width = width
        self.heads = self.weight.shape[1] // width


def _projection(graph: OnnxGraph, transpose: Any) -> _Projection | None:
    if attribute(transpose, "perm") not in (HEADS_FIRST, KEYS_TRANSPOSED):
        return None
    reshape = graph.producer(transpose.input[0], "Reshape")
    shape = graph.constants.get(reshape.input[1]) if reshape is not None else None
    if reshape is None or shape is None or shape.size != 4 or list(shape[:2]) != [0, 0] or shape[3] < 1:
        return None
    added = graph.split_constant(graph.producer(reshape.input[0], "Add"))
    matmul = graph.producer(added[0], "MatMul") if added is not None else None
    if added is None or matmul is None or graph.variable_inputs(matmul) != [matmul.input[0]]:
        return None
    weight, bias = graph.constants[matmul.input[1]], graph.constants[added[1]]
    width = int(shape[3])
    if weight.ndim != 2 or bias.shape != weight.shape[1:] or weight.shape[1] % width:
        return None
    return _Projection(graph, matmul.input[0], matmul, added[1], transpose, width)


def _merge(graph: OnnxGraph, source: str, members: list[_Projection]) -> None:
    """Replace projections of ``source`` by one, split into heads at once, and let their readers read its parts."""
    # "/model/bert/encoder/layer.0/attention/self/query/MatMul" -> ".../self/qkv", which says where the bytes belong.
    scope = members[0].name.rpartition("/")[0].rpartition("/")[0] + "/projections"
    dotted = scope.strip("/").replace("/", ".")
    weight = np.concatenate([m.weight for m in members], axis=1)
    bias = np.concatenate([m.bias for m in members])
    heads = sum(m.heads for m in members)
    product = graph.add_node("MatMul", [source, graph.add_constant(f"{dotted}.weight", weight)], f"{scope}/MatMul")
    added = graph.add_node("Add", [product.output[0], graph.add_constant(f"{dotted}.bias", bias)], f"{scope}/Add")
    shape = graph.add_constant(
        f"shape_0_0_{heads}_{members[0].width}", np.array([0, 0, heads, members[0].width], dtype=np.int64)
    )
    reshape = graph.add_node("Reshape", [added.output[0], shape], f"{scope}/Reshape")
    turned = graph.add_node("Transpose", reshape.output, f"{scope}/Transpose", perm=HEADS_FIRST)
    sizes = np.array([m.heads for m in members], dtype=np.int64)
    split = graph.add_node(
        "Split",
        [turned.output[0], graph.add_constant(f"{dotted}.heads", sizes)],
        f"{scope}/Split",
        outputs=len(members),
        axis=1,
    )
    consumers = graph.consumers()
    for part, member in zip(split.output, members, strict=True):
        new = part
        if attribute(member.transpose, "perm") == KEYS_TRANSPOSED:
            new = graph.add_node("Transpose", [part], f"{scope}/Transpose_{part[-1]}", perm=[0, 1, 3, 2]).output[0]
        graph.replace_input(consumers[member.transpose.output[0]], member.transpose.output[0], new)


def separate_residuals(graph: OnnxGraph) -> int:
    """Turn the additions of two variables before a norm into Sum, which onnxruntime leaves as it is.

    It makes SkipLayerNormalization of Add and LayerNormalization, which took five times as long as the two.
    """
    count = 0
    for node in graph.nodes:
        if node.op_type != "LayerNormalization":
            continue
        add = graph.producer(node.input[0], "Add")
        if add is not None and len(graph.variable_inputs(add)) == 2:
            add.op_type = "Sum"
            count += 1
    return count
