"""What options can be chosen from. Nothing heavy is imported here: the command line reads this module to start."""

from __future__ import annotations

from enum import StrEnum


class SourceFormat(StrEnum):
    """Layout of a raw source; ``auto`` looks at the files."""

    AUTO = "auto"
    AMAZON = "amazon"
    MNLI = "mnli"
    CSV = "csv"
    TSV = "tsv"
    JSONL = "jsonl"
    PARQUET = "parquet"
    HUB = "hub"


class Split(StrEnum):
    """Part of a dataset."""

    TRAIN = "train"
    DEV = "dev"
    TEST = "test"
    ALL = "all"


class Device(StrEnum):
    """Where tensors live; ``auto`` takes CUDA, then MPS, then the CPU."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


class Target(StrEnum):
    """The CPU that an int8 file is for; ``auto`` is this machine's."""

    AUTO = "auto"
    AVX2 = "avx2"
    AVX512_VNNI = "avx512-vnni"
    ARM64 = "arm64"
    WASM = "wasm"


class Sampling(StrEnum):
    """How many rows each domain gives to a step, and how long an epoch is (see ``hrkd_cli.data.batching``)."""

    COVER = "cover"
    BALANCED = "balanced"
    TEMPERATURE = "temperature"


class Metric(StrEnum):
    """What "best" means on the dev split."""

    ACCURACY = "accuracy"
    MACRO_F1 = "macro-f1"


class ClassWeights(StrEnum):
    """Weight of a class in the loss; ``balanced`` is inverse to its share of the domain's train split."""

    NONE = "none"
    BALANCED = "balanced"


class Method(StrEnum):
    """What the student learns from its teacher."""

    HRKD = "hrkd"
    TINYBERT = "tinybert"
    LOGITS = "logits"
    LABELS = "labels"


class Recipe(StrEnum):
    """Where options that were not given come from: our defaults, or what the paper's released code runs with."""

    OURS = "ours"
    PAPER = "paper"


class Graph(StrEnum):
    """Where the domain ratios come from."""

    LEARNED = "learned"
    FROZEN = "frozen"
    UNIFORM = "uniform"
    NONE = "none"


class Means(StrEnum):
    """What the means of the losses run over: valid tokens, or padded positions too as in the released code."""

    MASKED = "masked"
    RELEASED = "released"


class InstanceWeights(StrEnum):
    """Weights of single rows in the losses against the teacher (see ``hrkd_cli.distillation.instance_weights``)."""

    NONE = "none"
    META_KD = "meta-kd"


class Init(StrEnum):
    """Where the weights of a LAYERSxWIDTH student come from."""

    TEACHER = "teacher"
    RANDOM = "random"


class Truncate(StrEnum):
    """Which tokens of a text that is too long are read (see ``hrkd_cli.predict.folder``)."""

    HEAD = "head"
    TAIL = "tail"
    HEAD_TAIL = "head-tail"


class Precision(StrEnum):
    """Arithmetic of a training run's forward and backward passes; weights stay in float32."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class CacheTeacher(StrEnum):
    """Whether the teacher's outputs are computed once and kept on disk."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class TeacherCheckpoints(StrEnum):
    """Which teacher a domain has: the weights that were best for it, or those that were best on average."""

    DOMAIN = "domain"
    AVERAGE = "average"
