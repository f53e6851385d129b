"""Writing a teacher's or student's folder, so that any tool of the transformers world opens it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from hrkd_cli.choices import Truncate
from hrkd_cli.layout import MODEL
from hrkd_cli.models.loading import quiet_transformers
from hrkd_cli.predict.folder import read_json_or_empty
from hrkd_cli.predict.heads import DomainHeads

CONFIG_FORMAT = 1
# transformers 5 writes class names of its own that 4.57 does not know; this one both know.
PORTABLE_TOKENIZER = "PreTrainedTokenizerFast"
NEW_TOKENIZERS = ("TokenizersBackend",)
# Padding and truncation of whoever saved the tokenizer last, and how it was opened here.
LOCAL_SETTINGS = (
    "max_length",
    "pad_to_multiple_of",
    "stride",
    "truncation_side",
    "truncation_strategy",
    "is_local",
    "local_files_only",
)


def save_model(
    model: Any,
    tokenizer: Any,
    path: Path,
    heads: DomainHeads,
    *,
    max_length: int,
    pair: bool,
    truncate: Truncate = Truncate.HEAD,
) -> None:
    """Write config, weights (safetensors) and tokenizer into ``path``.

    Args:
        model: a transformers sequence classifier with ``heads.size`` outputs.
        tokenizer: its fast tokenizer.
        path: folder, made when missing.
        heads: which output is which (domain, label).
        max_length: tokens its inputs were cut to; every later stage cuts at the same length.
        pair: whether it takes two texts.
        truncate: what was kept of longer texts, for every later stage too.
    """
    path.mkdir(parents=True, exist_ok=True)
    model.config.hrkd = {
        "format": CONFIG_FORMAT,
        "domains": heads.to_config()["domains"],
        "max_length": max_length,
        "truncate": str(truncate),
        "pair": pair,
    }
    with quiet_transformers():
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
    # Other tools know the two ends only; of head-tail they read the head.
    _make_portable(path / MODEL.tokenizer_config, {"truncation_side": "left"} if truncate == Truncate.TAIL else {})


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file people can read."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def is_stage_folder(path: Path, stage: str) -> bool:
    """Tell a folder that ``stage`` ("teach" or "distill") wrote."""
    return bool(read_json_or_empty(path / MODEL.run).get("stage") == stage)


def model_fingerprint(path: Path) -> str:
    """Return a sha256 over a model's config, weights and tokenizer: equal models have equal fingerprints."""
    digest = hashlib.sha256()
    names = (MODEL.config, MODEL.tokenizer, MODEL.tokenizer_config, "vocab.txt", "vocab.json", "merges.txt")
    files = [path / name for name in names] + sorted(path.glob("model*.safetensors"))
    files += sorted((path / MODEL.best).glob("*/model*.safetensors"))
    for file in files:
        if file.is_file():
            digest.update(file.relative_to(path).as_posix().encode())
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _make_portable(path: Path, own: dict[str, Any]) -> None:
    config = read_json_or_empty(path)
    if config.get("tokenizer_class") in NEW_TOKENIZERS:
        config["tokenizer_class"] = PORTABLE_TOKENIZER
    write_json(path, {name: value for name, value in config.items() if name not in LOCAL_SETTINGS} | own)
