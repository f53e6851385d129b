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

from hrkd_cli.onnx_export.first_token import keep_first_token
from hrkd_cli.onnx_export.graph_editor import constant, int64_constant, stamp, to_proto
from hrkd_cli.onnx_export.recipes import Precision
from hrkd_cli.onnx_export.trace import quiet


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
