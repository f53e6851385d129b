"""Helpers for tests of the ONNX export."""

from __future__ import annotations

import functools

import hrkd_cli
from hrkd_cli.choices import Target
from hrkd_cli.onnx_export.cpu_targets import weight_format_for
from hrkd_cli.onnx_export.graph_editor import OnnxFormat
from hrkd_cli.onnx_export.quantizers import QuantizerInputs
from hrkd_cli.onnx_export.recipes import FORMATS, apply_recipe
from hrkd_cli.predict.backend import OnnxBackend

FP32, INT8 = "model.onnx", "model_quantized.onnx"
FORMAT_OPTIONS = {"fp16": "fp16", "int8": "int8", "int8-static": "int8_static", "int4": "int4"}
SMALLER_FORMATS = [OnnxFormat(name) for name in FORMAT_OPTIONS]

export = functools.partial(hrkd_cli.export, latency=False)
"""Export without timing."""


def list_files(folder):
    """Return the paths of everything in a folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def write_with_recipe(source, target, onnx_format, description, calibration=()):
    """Write a file for AVX2 with the recipe of that description."""
    recipe = next(r for tier in FORMATS[onnx_format].tiers for r in tier if r.description == description)
    inputs = QuantizerInputs(weight_format_for(Target.AVX2), lambda: iter(calibration))
    apply_recipe(source, target, onnx_format, recipe, inputs)


def onnx_logits(folder, name, texts, **options):
    """Return the logits of a file in a student's ``onnx`` folder."""
    return OnnxBackend(folder, folder / "onnx" / name).logits(texts, **options)


def write_splits(folder, split_texts, domains=("books", "dvd"), label=lambda domain, text: "negative"):
    """Write raw data with splits: one CSV file per domain and split."""
    folder.mkdir(parents=True, exist_ok=True)
    for domain in domains:
        for split, texts in split_texts.items():
            lines = [f"{text},{label(domain, text)}" for text in texts]
            (folder / f"{domain}.{split}.csv").write_text("text,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return folder
