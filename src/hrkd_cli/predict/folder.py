"""Where a classifier's graph, configuration and tokenizer lie, and what the configuration says.

File names are repeated here rather than imported, because this package is also shipped on its own to small devices; a
test compares them with ``hrkd_cli.layout``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hrkd_cli.errors import ModelError, one_line
from hrkd_cli.predict.heads import DomainHeads, id_to_label

ANY = "any"
"""The domain that stands for all: the mean of the heads' probabilities."""

HEAD = "head"
TAIL = "tail"
HEAD_TAIL = "head-tail"
TRUNCATE = (HEAD, TAIL, HEAD_TAIL)
"""What is kept of a text that is too long: the first tokens, the last ones, or both ends."""

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
ONNX_FOLDER = "onnx"
ONNX_SUFFIX = ".onnx"
ONNX_FP32 = "model.onnx"
ONNX_INT8 = "model_quantized.onnx"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")

MAX_LENGTH_CAP = 512
"""Tokens a classifier without a length of its own is cut to: what the usual encoders were trained with."""

# Position tables of these begin after the padding id, so that many rows are never reached.
_OFFSET_POSITIONS = {"roberta": 2, "camembert": 2, "xlm-roberta": 2, "mpnet": 2, "longformer": 2}


@dataclass(frozen=True, slots=True)
class Location:
    """A classifier on disk.

    Attributes:
        root: folder of ``config.json`` and the tokenizer.
        graph: the ONNX file, or None when the weights are torch's.
    """

    root: Path
    graph: Path | None


@dataclass(frozen=True, slots=True)
class Spec:
    """What a classifier's configuration says.

    Attributes:
        config: ``config.json``, with ``id2label`` always there.
        heads: outputs by domain; None for a classifier that is not a multi-domain one.
        max_length: tokens a text (or a pair) is cut to.
        pair: whether it reads two texts; None when unknown.
        truncate: one of ``TRUNCATE``.
    """

    config: Mapping[str, Any]
    heads: DomainHeads | None
    max_length: int
    pair: bool | None
    truncate: str = HEAD

    @property
    def all_heads(self) -> DomainHeads:
        """The heads; plain labels count as one head: of the baked domain, else of ``any``."""
        if self.heads is not None:
            return self.heads
        names = id_to_label(self.config)
        domain, order = baked_domain(self.config) or ANY, sorted(names)
        return DomainHeads({domain: tuple(names[i] for i in order)}, {domain: tuple(order)}, len(order))


def locate(path: str | Path) -> Location | None:
    """Find the graph and the folder of the configuration; None when nothing lies at ``path``.

    An ``onnx`` folder means its int8 graph if there, else its fp32 one. A model folder means its torch weights if
    there, else the graph in its ``onnx`` folder.

    Raises:
        ModelError: what lies there is not a classifier.
    """
    path = Path(path)
    if path.is_file():
        if path.suffix != ONNX_SUFFIX:
            raise ModelError(f"{path}: not a model; name a model folder, an onnx folder or one .onnx file")
        return Location(_root_of(path.parent), path)
    if not path.is_dir():
        return None
    if (path / CONFIG).is_file() and any((path / name).is_file() for name in WEIGHTS):
        return Location(path, None)
    for folder in (path, path / ONNX_FOLDER):
        for name in (ONNX_INT8, ONNX_FP32):
            if (folder / name).is_file():
                return Location(_root_of(folder), folder / name)
    if others := sorted(str(graph) for graph in (*path.glob("*.onnx"), *path.glob(f"{ONNX_FOLDER}/*.onnx"))):
        raise ModelError(f"{path}: no {ONNX_INT8} or {ONNX_FP32} in it; name one file: {', '.join(others)}")
    if (path / CONFIG).is_file():
        return Location(path, None)
    raise ModelError(f"{path}: no model in this folder (no {CONFIG}, {WEIGHTS[0]} or {ONNX_FP32})")


def _root_of(folder: Path) -> Path:
    # "." and ".." have no parent in their text.
    above = folder.resolve().parent if folder.name in ("", "..") else folder.parent
    for root in (folder, above):
        if (root / CONFIG).is_file():
            return root
    raise ModelError(f"{folder}: no {CONFIG} in it or in the folder above; keep it and the tokenizer beside the graph")


def read_spec(root: Path) -> Spec:
    """Read ``config.json`` and ``tokenizer_config.json`` of a folder.

    Raises:
        ModelError: a file is not JSON, or contradicts itself.
    """
    return build_spec(read_json(root / CONFIG), read_json(root / TOKENIZER_CONFIG, missing_ok=True))


def build_spec(config: Mapping[str, Any], tokenizer_config: Mapping[str, Any]) -> Spec:
    """Interpret a model's and a tokenizer's configuration.

    Raises:
        ModelError: the ``hrkd`` entry and ``id2label`` contradict each other, or it asks for a cut that is not known.
    """
    config = dict(config)
    # transformers leaves out what equals its default, which is two labels of these names.
    if not config.get("id2label"):
        config["id2label"] = {str(index): name for index, name in id_to_label(config).items()}
    ours = config.get("hrkd") or {}
    if not isinstance(ours, dict):
        raise ModelError(f"{CONFIG}: its hrkd entry is not one that hrkd wrote")
    truncate = ours.get("truncate", HEAD)
    if truncate not in TRUNCATE:
        raise ModelError(
            f"{CONFIG}: its hrkd.truncate, {truncate!r}, is not one of {', '.join(TRUNCATE)}; correct it, or use the "
            "version of hrkd that wrote it"
        )
    return Spec(
        config=config,
        heads=DomainHeads.from_config(config),
        max_length=int(ours.get("max_length") or _longest(config, tokenizer_config)),
        pair=ours.get("pair"),
        truncate=truncate,
    )


def baked_domain(config: Mapping[str, Any]) -> str | None:
    """Return the domain whose head alone a classifier is; None for one that was not baked."""
    ours = config.get("hrkd")
    domain = ours.get("domain") if isinstance(ours, dict) else None
    return domain if isinstance(domain, str) else None


def _longest(config: Mapping[str, Any], tokenizer_config: Mapping[str, Any]) -> int:
    """Return the most tokens that both the tokenizer and the position table allow, within the cap."""
    limits = [MAX_LENGTH_CAP]
    if stated := tokenizer_config.get("model_max_length"):
        limits.append(int(stated))
    if positions := config.get("max_position_embeddings"):
        limits.append(int(positions) - _OFFSET_POSITIONS.get(str(config.get("model_type")), 0))
    return max(min(limits), 1)


def read_json_or_empty(path: Path) -> dict[str, Any]:
    """Read a JSON object; an empty one if the file is missing or is not a JSON object."""
    try:
        return read_json(path)
    except ModelError:
        return {}


def read_json(path: Path, *, missing_ok: bool = False) -> dict[str, Any]:
    """Read a JSON object; with ``missing_ok`` an absent file is an empty one.

    Raises:
        ModelError: the file is missing or is not a JSON object.
    """
    if missing_ok and not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; name a whole model folder") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read as JSON ({one_line(error)})") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path}: not a JSON object")
    return content
