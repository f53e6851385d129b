"""Formats of exported files, and the quantization recipes of each, from the smallest and fastest to the most accurate.

``FORMATS`` has an entry for each format, whose recipes are grouped into tiers. The description of the recipe that was
used is stored in ``export.json`` and in the file's metadata; within a format, no two recipes have the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from torch import nn

from hrkd_cli.errors import ModelError
from hrkd_cli.evaluation.onnx_inspect import count_quantized_ops, load_onnx
from hrkd_cli.layout import OnnxFiles
from hrkd_cli.models.loading import quiet_libraries
from hrkd_cli.models.mean_pooling import MeanPooling
from hrkd_cli.onnx_export.cpu_targets import WeightFormat
from hrkd_cli.onnx_export.graph_editor import OnnxFormat, set_metadata
from hrkd_cli.onnx_export.quantizers import (
    EMBEDDING_BLOCK,
    QuantizerInputs,
    write_fp16,
    write_int4,
    write_int8_dynamic,
    write_int8_static,
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to quantize a file.

    Attributes:
        description: a phrase, for messages and JSON.
        quantize: a function of ``quantizers.py``: source, target, ``QuantizerInputs``, and ``options`` by keyword.
        target_specific: whether the file depends on the target CPU.
        only_for_7_bits: whether the recipe is worth trying only on targets with 7-bit weights.
    """

    description: str
    quantize: Callable[..., None]
    options: Mapping[str, Any] = field(default_factory=dict)
    target_specific: bool = True
    only_for_7_bits: bool = False


_BLOCK_BITS = 32 + 4  # of the scale and the zero point of a block of 4-bit weights
Tier = tuple[Recipe, ...]  # recipes of about equal speed; the most accurate one is taken


@dataclass(frozen=True, slots=True)
class FormatSpec:
    """How files of one format are named and made.

    Attributes:
        file_name: name inside ``onnx/``.
        oldest_onnxruntime: the oldest version that such a file ran with; older versions were not tried.
        tiers: a tier is tried if no recipe of the tiers before it passes the gate; empty for fp32.
        bits: of a weight, with the first recipe.
        blocks: weights that share a scale and a zero point, in dense layers and in embeddings.
    """

    file_name: str
    oldest_onnxruntime: str
    tiers: tuple[Tier, ...] = ()
    bits: int = 32
    blocks: tuple[float, float] = (math.inf, math.inf)

    def tiers_for(self, weight_format: WeightFormat) -> list[Tier]:
        """Return the tiers without the recipes that a target does not need."""
        tiers = [tuple(r for r in tier if weight_format.bits < 8 or not r.only_for_7_bits) for tier in self.tiers]
        return [tier for tier in tiers if tier]

    def estimate_bytes(self, model: nn.Module) -> int:
        """Return the size of a model's file with the first recipe, without that of the graph.

        The weights of a pooling layer are not in the file.
        """
        bits = 0
        pooling = {each for module in model.modules() if isinstance(module, MeanPooling) for each in module.modules()}
        for module in (each for each in model.modules() if each not in pooling):
            for weight in module.parameters(recurse=False):
                if weight.ndim < 2:  # biases and norms
                    bits += weight.numel() * (16 if self.bits == 16 else 32)
                    continue
                rows, columns = weight.flatten(1).shape
                blocks = math.ceil(columns / self.blocks[isinstance(module, nn.Embedding)])
                bits += rows * (columns * self.bits + blocks * _BLOCK_BITS)
        return bits // 8


_FP32_ATTENTION = {"embeddings": "per_row", "attention": False}
_FEED_FORWARD_ONLY = {"embeddings": "fp32", "attention": False}

_INT8: tuple[Tier, ...] = (
    (
        Recipe("per-channel scales", write_int8_dynamic),
        Recipe("per-tensor scales", write_int8_dynamic, {"per_channel": False}),
    ),
    (Recipe("per-channel scales, per-row embedding scales", write_int8_dynamic, {"embeddings": "per_row"}),),
    (
        Recipe(
            "per-channel scales, unsigned weights, per-row embedding scales",
            write_int8_dynamic,
            {"unsigned": True, "embeddings": "per_row"},
            target_specific=False,
            only_for_7_bits=True,
        ),
    ),
    (Recipe("per-channel scales, per-row embedding scales, attention in fp32", write_int8_dynamic, _FP32_ATTENTION),),
    (Recipe("per-channel scales, attention in fp32, embeddings in fp32", write_int8_dynamic, _FEED_FORWARD_ONLY),),
)
_INT8_STATIC: tuple[Tier, ...] = (
    (
        Recipe("per-channel scales", write_int8_static),
        Recipe("per-channel scales, averaged ranges", write_int8_static, {"moving_average": True}),
    ),
    (
        Recipe("per-channel scales, per-row embedding scales", write_int8_static, {"embeddings": "per_row"}),
        Recipe(
            "per-channel scales, averaged ranges, per-row embedding scales",
            write_int8_static,
            {"moving_average": True, "embeddings": "per_row"},
        ),
    ),
    (Recipe("per-channel scales, per-row embedding scales, attention in fp32", write_int8_static, _FP32_ATTENTION),),
    (Recipe("per-channel scales, attention in fp32, embeddings in fp32", write_int8_static, _FEED_FORWARD_ONLY),),
)
_INT4: tuple[Tier, ...] = (
    (Recipe("one scale per 128 weights", write_int4, target_specific=False),),
    (Recipe("one scale per 32 weights", write_int4, {"block_size": 32}, target_specific=False),),
    (Recipe("dense layers in int8", write_int8_dynamic, {"embeddings": "int4"}),),
    (
        Recipe(
            "dense layers in int8, attention in fp32", write_int8_dynamic, {"embeddings": "int4", "attention": False}
        ),
    ),
)
_FP16: tuple[Tier, ...] = ((Recipe("weights in fp16, arithmetic in fp32", write_fp16, target_specific=False),),)

FORMATS = {
    OnnxFormat.FP32: FormatSpec(OnnxFiles.fp32, "1.15.1"),
    OnnxFormat.FP16: FormatSpec(OnnxFiles.fp16, "1.15.1", _FP16, bits=16),
    OnnxFormat.INT8: FormatSpec(OnnxFiles.int8, "1.15.1", _INT8, bits=8),
    OnnxFormat.INT8_STATIC: FormatSpec(OnnxFiles.int8_static, "1.15.1", _INT8_STATIC, bits=8),
    OnnxFormat.INT4: FormatSpec(OnnxFiles.int4, "1.20.1", _INT4, bits=4, blocks=(128, EMBEDDING_BLOCK)),
}
FILE_NAMES = {onnx_format: spec.file_name for onnx_format, spec in FORMATS.items()}


def apply_recipe(source: Path, target: Path, onnx_format: OnnxFormat, recipe: Recipe, inputs: QuantizerInputs) -> None:
    """Write the fp32 file ``source`` to ``target`` in another format.

    Raises:
        ModelError: the source cannot be read, or nothing in it could be quantized.
    """
    with quiet_libraries():
        recipe.quantize(source, target, inputs, **recipe.options)
    model = load_onnx(target)
    if FORMATS[onnx_format].bits < 16 and not count_quantized_ops(model):
        target.unlink()
        raise ModelError(
            "nothing in the graph was quantized: it has no dense layer that the quantizer knows; export without "
            f"--{onnx_format}"
        )
    properties = {"recipe": recipe.description}
    if recipe.target_specific:
        weight_format = inputs.weight_format
        properties |= {"target": str(weight_format.target), "weight_bits": str(weight_format.bits)}
    set_metadata(model, onnx_format, properties)
    onnx.save(model, str(target))
