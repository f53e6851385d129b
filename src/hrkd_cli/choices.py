"""What options can be chosen from. Nothing heavy is imported here: the command line reads this module to start."""

from __future__ import annotations

from enum import StrEnum

SourceFormat = StrEnum("SourceFormat", ["AUTO", "AMAZON", "MNLI", "CSV", "TSV", "JSONL", "PARQUET", "HUB"])
"""Layout of a raw source; ``auto`` looks at the files."""

Split = StrEnum("Split", ["TRAIN", "DEV", "TEST", "ALL"])
"""Part of a dataset."""

Device = StrEnum("Device", ["AUTO", "CPU", "CUDA", "MPS"])
"""Where tensors live; ``auto`` takes CUDA, then MPS, then the CPU."""

Target = StrEnum(
    "Target", {"AUTO": "auto", "AVX2": "avx2", "AVX512_VNNI": "avx512-vnni", "ARM64": "arm64", "WASM": "wasm"}
)
"""The CPU that an int8 file is for; ``auto`` is this machine's."""

Sampling = StrEnum("Sampling", ["COVER", "BALANCED", "TEMPERATURE"])
"""How many rows each domain gives to a step, and how long an epoch is (see ``hrkd_cli.data.sampler``)."""

Metric = StrEnum("Metric", {"ACCURACY": "accuracy", "MACRO_F1": "macro-f1"})
"""What "best" means on the dev split."""

ClassWeights = StrEnum("ClassWeights", ["NONE", "BALANCED"])
"""Weight of a class in the loss; ``balanced`` is inverse to its share of the domain's train split."""

Method = StrEnum("Method", ["HRKD", "TINYBERT", "LOGITS", "LABELS"])
"""What the student learns from its teacher."""

Recipe = StrEnum("Recipe", ["OURS", "PAPER"])
"""Where options that were not given come from: our defaults, or what the paper's released code runs with."""

Graph = StrEnum("Graph", ["LEARNED", "FROZEN", "UNIFORM", "NONE"])
"""Where the domain ratios come from."""

Means = StrEnum("Means", ["MASKED", "RELEASED"])
"""What the means of the losses run over: valid tokens, or padded positions too as in the released code."""

InstanceWeights = StrEnum("InstanceWeights", {"NONE": "none", "META_KD": "meta-kd"})
"""Weights of single rows in the losses against the teacher (see ``hrkd_cli.distillation.instance_weights``)."""

Init = StrEnum("Init", ["TEACHER", "RANDOM"])
"""Where the weights of a LAYERSxWIDTH student come from."""

Truncate = StrEnum("Truncate", {"HEAD": "head", "TAIL": "tail", "HEAD_TAIL": "head-tail"})
"""Which tokens of a text that is too long are read (see ``hrkd_cli.predict.model_spec``)."""

Precision = StrEnum("Precision", ["AUTO", "FP32", "BF16", "FP16"])
"""Arithmetic of a training run's forward and backward passes; weights stay in float32."""

CacheTeacher = StrEnum("CacheTeacher", ["AUTO", "ON", "OFF"])
"""Whether the teacher's outputs are computed once and kept on disk."""

TeacherCheckpoints = StrEnum("TeacherCheckpoints", ["DOMAIN", "AVERAGE"])
"""Which teacher a domain has: the weights that were best for it, or those that were best on average."""
