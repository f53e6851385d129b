"""The enums of the options. This module imports nothing heavy because ``hrkd --help`` reads it."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

SourceFormat = StrEnum("SourceFormat", ["AUTO", "AMAZON", "MNLI", "CSV", "TSV", "JSONL", "PARQUET", "HUB"])
"""Layout of a raw source; ``auto`` detects it from the files."""

Split = StrEnum("Split", ["TRAIN", "DEV", "TEST", "ALL"])
"""Split of a dataset."""

EvalDomain = StrEnum("EvalDomain", ["GIVEN", "AUTO"])
"""What ``eval`` tells a model about the domain of a row: its name (``given``), or nothing."""

Device = StrEnum("Device", ["AUTO", "CPU", "CUDA", "MPS"])
"""Torch device; ``auto`` prefers CUDA, then MPS, then the CPU."""

Target = StrEnum(
    "Target", {"AUTO": "auto", "AVX2": "avx2", "AVX512_VNNI": "avx512-vnni", "ARM64": "arm64", "WASM": "wasm"}
)
"""CPU that an int8 file is for; ``auto`` is the CPU of this machine."""

Metric = StrEnum("Metric", {"ACCURACY": "accuracy", "MACRO_F1": "macro-f1"})
"""Dev score that selects the best step."""

ClassWeights = StrEnum("ClassWeights", ["NONE", "BALANCED"])
"""Class weights in the loss; ``balanced``: inverse to the class frequency in the domain's train split."""

Method = StrEnum("Method", ["HRKD", "TINYBERT", "LOGITS", "LABELS"])
"""What the student learns from its teacher."""

Recipe = StrEnum("Recipe", ["OURS", "PAPER"])
"""Defaults of options that are not given: ours, or those of the paper's released code."""

Graph = StrEnum("Graph", ["LEARNED", "FROZEN", "UNIFORM", "NONE"])
"""Where the domain ratios come from."""

Means = StrEnum("Means", ["MASKED", "RELEASED"])
"""Positions that the losses average over: valid tokens, or padding too, as the released code does."""

InstanceWeights = StrEnum("InstanceWeights", {"NONE": "none", "META_KD": "meta-kd"})
"""Weights of single rows in the losses against the teacher (see ``hrkd_cli.distillation.instance_weights``)."""

Init = StrEnum("Init", ["TEACHER", "RANDOM"])
"""Where the weights of a LAYERSxWIDTH student come from."""

Truncate = StrEnum("Truncate", {"HEAD": "head", "TAIL": "tail", "HEAD_TAIL": "head-tail"})
"""Which tokens of a long text are kept (see ``hrkd_cli.predict.model_spec``)."""

Precision = StrEnum("Precision", ["AUTO", "FP32", "BF16", "FP16"])
"""Precision of the forward and backward passes in training; the weights are float32."""

Tracker = StrEnum("Tracker", ["TENSORBOARD", "WANDB", "MLFLOW", "TRACKIO"])
"""Experiment trackers (see ``hrkd_cli.trackers``)."""

CacheTeacher = StrEnum("CacheTeacher", ["AUTO", "ON", "OFF"])
"""Whether teacher outputs are computed once and cached on disk."""

TeacherCheckpoints = StrEnum("TeacherCheckpoints", ["DOMAIN", "AVERAGE"])
"""Teacher weights for a domain: best on that domain, or best on average."""


# Values that a recipe sets unless the option is given. Current defaults are listed too, in case those change.
RECIPES: dict[str, dict[str, Any]] = {
    Recipe.PAPER: {
        "graph": Graph.FROZEN,
        "learning_rate": 5e-5,
        "epochs": 10,
        "teacher_learning_rate": 5e-5,
        "teacher_epochs": 3,
        "max_length": 128,
        "truncate": Truncate.HEAD,
        "means": Means.RELEASED,
        "label_weight": 0.0,
        "domain_weight": 0.0,
        "student": "small",
        "augment": 0,
        "probe": False,
        "cosine_loss": False,
        "wide": False,
    }
}
