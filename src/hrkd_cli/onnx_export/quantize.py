"""A smaller file from the fp32 one, by a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx

from hrkd_cli.errors import ModelError
from hrkd_cli.evaluation.graph import quantized_ops, read_graph
from hrkd_cli.onnx_export.calibrate import Extremes
from hrkd_cli.onnx_export.fp16 import store_fp16
from hrkd_cli.onnx_export.int4 import quantize_int4
from hrkd_cli.onnx_export.int8 import quantize_dynamic, quantize_static
from hrkd_cli.onnx_export.onnx_graph import OnnxGraph
from hrkd_cli.onnx_export.recipes import Precision, Recipe
from hrkd_cli.onnx_export.record import stamp
from hrkd_cli.onnx_export.targets import Weights


def write_smaller(
    source: Path,
    target: Path,
    recipe: Recipe,
    *,
    weights: Weights,
    extremes: Mapping[str, Extremes] | None = None,
) -> dict[str, int]:
    """Write a graph in another precision and return its quantised operators by type.

    Args:
        source: fp32 graph.
        target: file to write.
        recipe: what to do.
        weights: how int8 weights are stored.
        extremes: ranges of the activations, for int8-static.

    Raises:
        ModelError: nothing in the graph could be quantised.
    """
    graph = OnnxGraph(read_graph(source))
    if recipe.precision is Precision.FP16:
        store_fp16(graph)
    elif recipe.precision is Precision.INT4:
        quantize_int4(graph, recipe, weights)
    elif recipe.precision is Precision.INT8_STATIC:
        quantize_static(graph, recipe, weights, extremes or {})
    else:
        quantize_dynamic(graph, recipe, weights)
    model = graph.finish()
    counts = quantized_ops(model)
    if not counts and recipe.precision is not Precision.FP16:
        raise ModelError(
            "nothing in the graph was quantised: it has no dense layer that the quantiser knows; export without "
            f"--{recipe.precision}"
        )
    facts = {"recipe": recipe.text}
    if recipe.for_target:
        facts |= {"target": str(weights.target), "weight_bits": str(weights.bits)}
    stamp(model, recipe.precision, facts)
    onnx.save(model, str(target))
    return counts
