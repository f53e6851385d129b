"""Files of each precision, and the recipes for each from the smallest and fastest to the safest.

A recipe is one entry of ``FORMATS``. Its words are stored in ``export.json``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import onnx

from hrkd_cli.errors import ModelError
from hrkd_cli.evaluation.onnx_inspect import count_quantized_ops, load_onnx
from hrkd_cli.layout import OnnxFiles
from hrkd_cli.onnx_export.graph_editor import quiet, stamp
from hrkd_cli.onnx_export.quantizers import QuantizerInputs, Weights, int4, int8_dynamic, int8_static, store_fp16


class Precision(StrEnum):
    """What an exported file's weights and products are."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"
    INT8_STATIC = "int8-static"
    INT4 = "int4"


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to make a file.

    Attributes:
        text: the recipe in words.
        write: makes the file from the fp32 graph: source, target, other inputs, and ``options`` by keyword.
        for_target: whether the file depends on the CPU it is for.
        reduced_only: whether it is only worth trying where the target takes 7-bit weights.
    """

    text: str
    write: Callable[..., None]
    options: Mapping[str, Any] = field(default_factory=dict)
    for_target: bool = True
    reduced_only: bool = False


Rung = tuple[Recipe, ...]


@dataclass(frozen=True, slots=True)
class FileFormat:
    """A precision's file.

    Attributes:
        file: its name.
        oldest_onnxruntime: the oldest version that ran such a file; older ones were not tried.
        rungs: of each rung the most accurate recipe is taken, the next rung where none passes the gate.
    """

    file: str
    oldest_onnxruntime: str
    rungs: tuple[Rung, ...] = ()

    def ladder(self, weights: Weights) -> list[Rung]:
        """Return the rungs with the recipes that are worth trying for a target."""
        rungs = [tuple(r for r in rung if weights.bits < 8 or not r.reduced_only) for rung in self.rungs]
        return [rung for rung in rungs if rung]


_FP32_ATTENTION = {"tables": "row", "attention": False}
_FP32_ATTENTION_AND_TABLES = {"tables": "fp32", "attention": False}

_INT8: tuple[Rung, ...] = (
    (Recipe("a scale a column", int8_dynamic), Recipe("a scale a matrix", int8_dynamic, {"per_channel": False})),
    (Recipe("a scale a column, a scale a token", int8_dynamic, {"tables": "row"}),),
    (
        Recipe(
            "a scale a column, unsigned weights, a scale a token",
            int8_dynamic,
            {"unsigned": True, "tables": "row"},
            for_target=False,
            reduced_only=True,
        ),
    ),
    (Recipe("a scale a column, a scale a token, attention in fp32", int8_dynamic, _FP32_ATTENTION),),
    (Recipe("a scale a column, attention in fp32, embeddings in fp32", int8_dynamic, _FP32_ATTENTION_AND_TABLES),),
)
_INT8_STATIC: tuple[Rung, ...] = (
    (
        Recipe("a scale a column", int8_static),
        Recipe("a scale a column, mean ranges", int8_static, {"moving_average": True}),
    ),
    (
        Recipe("a scale a column, a scale a token", int8_static, {"tables": "row"}),
        Recipe(
            "a scale a column, mean ranges, a scale a token",
            int8_static,
            {"moving_average": True, "tables": "row"},
        ),
    ),
    (Recipe("a scale a column, a scale a token, attention in fp32", int8_static, _FP32_ATTENTION),),
    (Recipe("a scale a column, attention in fp32, embeddings in fp32", int8_static, _FP32_ATTENTION_AND_TABLES),),
)
_INT4: tuple[Rung, ...] = (
    (Recipe("a scale for 128 weights", int4, for_target=False),),
    (Recipe("a scale for 32 weights", int4, {"block": 32}, for_target=False),),
    (Recipe("dense layers in 8 bits", int8_dynamic, {"tables": "int4"}),),
    (Recipe("dense layers in 8 bits, attention in fp32", int8_dynamic, {"tables": "int4", "attention": False}),),
)
_FP16: tuple[Rung, ...] = ((Recipe("weights in fp16, arithmetic in fp32", store_fp16, for_target=False),),)

FORMATS = {
    Precision.FP32: FileFormat(OnnxFiles.fp32, "1.15.1"),
    Precision.FP16: FileFormat(OnnxFiles.fp16, "1.15.1", _FP16),
    Precision.INT8: FileFormat(OnnxFiles.int8, "1.15.1", _INT8),
    Precision.INT8_STATIC: FileFormat(OnnxFiles.int8_static, "1.15.1", _INT8_STATIC),
    Precision.INT4: FileFormat(OnnxFiles.int4, "1.20.1", _INT4),
}
FILES = {precision: entry.file for precision, entry in FORMATS.items()}


def write_smaller(source: Path, target: Path, precision: Precision, recipe: Recipe, inputs: QuantizerInputs) -> None:
    """Write a graph in another precision.

    Raises:
        ModelError: the source cannot be read, or nothing in it could be quantized.
    """
    with quiet():
        recipe.write(source, target, inputs, **recipe.options)
    model = load_onnx(target)
    if precision is not Precision.FP16 and not count_quantized_ops(model):
        target.unlink()
        raise ModelError(
            "nothing in the graph was quantized: it has no dense layer that the quantizer knows; export without "
            f"--{precision}"
        )
    facts = {"recipe": recipe.text}
    if recipe.for_target:
        facts |= {"target": str(inputs.weights.target), "weight_bits": str(inputs.weights.bits)}
    stamp(model, precision, facts)
    onnx.save(model, str(target))
