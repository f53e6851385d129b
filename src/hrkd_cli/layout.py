"""Every file and folder name that the stages share, in one place."""

from __future__ import annotations

from pathlib import Path

SPLITS = ("train", "dev", "test")


class DATASET:
    """Names inside a prepared dataset folder; ``scratch`` is there only while it is made."""

    manifest = "dataset.json"
    data = "data"
    readme = "README.md"
    scratch = "scratch"


class MODEL:
    """Names inside a teacher's or student's folder."""

    config = "config.json"
    weights = "model.safetensors"
    weights_index = "model.safetensors.index.json"
    tokenizer = "tokenizer.json"
    tokenizer_config = "tokenizer_config.json"
    run = "hrkd.json"
    metrics = "metrics.jsonl"
    readme = "README.md"
    best = "best"
    onnx = "onnx"


class ONNX:
    """Names inside ``onnx/``: those that transformers.js and optimum look for, where they look for one."""

    fp32 = "model.onnx"
    fp16 = "model_fp16.onnx"
    int8 = "model_quantized.onnx"
    int8_static = "model_int8_static.onnx"
    int4 = "model_q4.onnx"
    record = "export.json"


CHECKPOINT = "checkpoint.json"
"""In a checkpoint: everything but its tensors."""
TEACHER_CACHE = "teacher-cache"
"""Folder of kept teacher outputs, beside a student."""

ROOT = Path("hrkd-out")
DATASET_OUT = ROOT / "dataset"
TEACHER_OUT = ROOT / "teacher"
STUDENT_OUT = ROOT / "student"
REPORT = "report.html"


def partial(out: Path) -> Path:
    """Return the folder in which a stage works until ``out`` is whole."""
    return out.with_name(out.name + ".partial")
