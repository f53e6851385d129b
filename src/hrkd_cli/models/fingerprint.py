"""The fingerprint of a model folder, which does not depend on the calibration that export adds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hrkd_cli.json_files import read_any_object
from hrkd_cli.layout import ModelFiles


def with_calibration(path: Path, entries: Mapping[str, Any]) -> bytes:
    """Return the content of a ``config.json`` with these entries of ``hrkd.calibration`` by file name, or without any.

    Without entries, it is the content before entries were added, if that had transformers' format.
    """
    content = path.read_bytes()
    if not entries and b'"calibration"' not in content:
        return content
    config = read_any_object(path)
    hrkd = {name: value for name, value in (config.get("hrkd") or {}).items() if name != "calibration"}
    config["hrkd"] = hrkd | ({"calibration": dict(sorted(entries.items()))} if entries else {})
    if not config["hrkd"]:  # a model that hrkd did not train
        del config["hrkd"]
    return (json.dumps(config, indent=2, ensure_ascii=content.isascii()) + "\n").encode()


def model_fingerprint(path: Path) -> str:
    """Return a sha256 over a model's config (without calibration, which export adds), weights and tokenizer."""
    digest = hashlib.sha256()
    names = (
        ModelFiles.config,
        ModelFiles.tokenizer,
        ModelFiles.tokenizer_config,
        "vocab.txt",
        "vocab.json",
        "merges.txt",
    )
    files = [path / name for name in names] + sorted(path.glob("model*.safetensors"))
    files += sorted((path / ModelFiles.best).glob("*/model*.safetensors"))
    for file in files:
        if file.is_file():
            digest.update(file.relative_to(path).as_posix().encode())
            if file.name == ModelFiles.config:
                digest.update(hashlib.sha256(with_calibration(file, {})).digest())
                continue
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
