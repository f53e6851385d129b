"""Every file and folder name that the stages share, in one place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True, slots=True)
class DatasetFiles:
    """Names inside a prepared dataset folder; ``scratch`` is there only while it is made."""

    manifest: str = "dataset.json"
    data: str = "data"
    readme: str = "README.md"
    scratch: str = "scratch"


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Names inside a teacher's or student's folder."""

    config: str = "config.json"
    weights: str = "model.safetensors"
    weights_index: str = "model.safetensors.index.json"
    tokenizer: str = "tokenizer.json"
    tokenizer_config: str = "tokenizer_config.json"
    run: str = "hrkd.json"
    metrics: str = "metrics.jsonl"
    readme: str = "README.md"
    best: str = "best"
    onnx: str = "onnx"


@dataclass(frozen=True, slots=True)
class OnnxFiles:
    """Names inside ``onnx/``: those that transformers.js and optimum look for, where they look for one."""

    fp32: str = "model.onnx"
    fp16: str = "model_fp16.onnx"
    int8: str = "model_quantized.onnx"
    int8_static: str = "model_int8_static.onnx"
    int4: str = "model_q4.onnx"
    record: str = "export.json"


@dataclass(frozen=True, slots=True)
class CheckpointFiles:
    """Names inside a checkpoint."""

    tensors: str = "state.safetensors"
    values: str = "checkpoint.json"


@dataclass(frozen=True, slots=True)
class CacheFiles:
    """Names inside a folder of kept teacher outputs."""

    folder: str = "teacher-cache"
    index: str = "cache.json"
    lock: str = ".lock"


@dataclass(frozen=True, slots=True)
class GeneralFiles:
    """The folder of general distillations, and names inside one."""

    folder: str = "general"
    weights: str = "general.safetensors"


DATASET = DatasetFiles()
MODEL = ModelFiles()
ONNX = OnnxFiles()
CHECKPOINT = CheckpointFiles()
CACHE = CacheFiles()
GENERAL = GeneralFiles()

ROOT = Path("hrkd-out")
DATASET_OUT = ROOT / "dataset"
TEACHER_OUT = ROOT / "teacher"
STUDENT_OUT = ROOT / "student"
REPORT = "report.html"


def partial(out: Path) -> Path:
    """Return the folder in which a stage works until ``out`` is whole."""
    return out.with_name(out.name + ".partial")
