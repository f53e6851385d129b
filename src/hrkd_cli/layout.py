"""File and folder names that several stages use."""

from __future__ import annotations

from pathlib import Path

SPLITS = ("train", "dev", "test")


class DatasetFiles:
    """Names inside a dataset folder."""

    manifest = "dataset.json"
    data = "data"
    readme = "README.md"
    # Patterns of all files that hrkd writes into the folder.
    written = (manifest, readme, *map(f"{data}/*/{{}}.parquet".format, SPLITS))


class OnnxFiles:
    """Names inside ``onnx/``; transformers.js and optimum look for most of them."""

    fp32 = "model.onnx"
    fp16 = "model_fp16.onnx"
    int8 = "model_quantized.onnx"
    int8_static = "model_int8_static.onnx"
    int4 = "model_q4.onnx"
    export_record = "export.json"
    self_check = "self_check.json"
    written = (fp32, fp16, int8, int8_static, int4, export_record, self_check)


class ModelFiles:
    """Names inside a teacher or student folder."""

    config = "config.json"
    weights = "model.safetensors"
    weights_index = "model.safetensors.index.json"
    wide = "model_wide.safetensors"
    tokenizer = "tokenizer.json"
    tokenizer_config = "tokenizer_config.json"
    run = "hrkd.json"
    metrics = "metrics.jsonl"
    evaluation = "eval.json"
    readme = "README.md"
    best = "best"
    onnx = "onnx"
    tokenizers = (tokenizer, tokenizer_config, "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
                  "vocab.txt", "vocab.json", "merges.txt", "spiece.model", "spm.model", "sentencepiece.bpe.model",
                  "chat_template.jinja")  # fmt: skip
    network = (config, weights, weights_index, "model-?????-of-?????.safetensors", *tokenizers)
    written = (*network, wide, run, metrics, evaluation, readme, "report.html", "hrkd_runtime.pyz",
               *map(f"{best}/*/{{}}".format, network), *map(f"{onnx}/{{}}".format, OnnxFiles.written))  # fmt: skip


CHECKPOINT = "checkpoint.json"  # everything in a checkpoint except the tensors
PREDICTOR_ARCHIVE = "hrkd_runtime.pyz"  # single-file predictor, in the folder of an exported student
TEACHER_CACHE = "teacher-cache"  # folder of cached teacher outputs, next to the student folder

ROOT = Path("hrkd-out")
DATASET_OUT = ROOT / "dataset"
TEACHER_OUT = ROOT / "teacher"
STUDENT_OUT = ROOT / "student"
EXTENDED_OUT, EXTENSION_DATASET_OUT = ROOT / "student-extended", ROOT / "dataset-extension"  # of --extend
REPORT = "report.html"
REPORT_MARKER = "<!-- hrkd report -->"  # near the top of every report; a file that has it may be replaced


def student_folder(out: str | Path | None, extended: str | None) -> Path:
    """Return the output of ``distill``, given the options ``--out`` and ``--extend``."""
    return Path(out or (STUDENT_OUT if extended is None else EXTENDED_OUT))


def partial_folder(out: Path) -> Path:
    """Return the working folder of a stage, which is renamed to ``out`` at the end."""
    return out.with_name(out.name + ".partial")
