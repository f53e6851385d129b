"""Where a classifier's graph, configuration and tokenizer lie, and what the configuration says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hrkd_cli.choices import Truncate
from hrkd_cli.errors import ModelError
from hrkd_cli.layout import ModelFiles, OnnxFiles
from hrkd_cli.predict.heads import DomainHeads, id_to_label

ANY = "any"
"""The domain that stands for all: the mean of the heads' probabilities."""

_ONNX_SUFFIX = ".onnx"
_LENGTH_CAP = 512  # of a classifier without a length of its own: what the usual encoders were trained with

# Their positions are counted from the padding id, which is 1, so that two rows of the table are never reached.
POSITIONS_AFTER_PADDING = frozenset({"roberta", "camembert", "xlm-roberta", "xlm-roberta-xl", "mpnet", "longformer"})


@dataclass(frozen=True, slots=True)
class Location:
    """A classifier on disk: folder of ``config.json`` and the tokenizer, and ONNX file (None for torch weights)."""

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
        truncate: what is kept of a text that is too long.
    """

    config: Mapping[str, Any]
    heads: DomainHeads | None
    max_length: int
    pair: bool | None
    truncate: Truncate = Truncate.HEAD

    @property
    def all_heads(self) -> DomainHeads:
        """The heads; plain labels count as one head: of the baked domain, else of ``any``."""
        if self.heads is not None:
            return self.heads
        names = id_to_label(self.config)
        domain, order = baked_domain(self.config) or ANY, sorted(names)
        return DomainHeads({domain: tuple(names[i] for i in order)}, {domain: tuple(order)}, len(order))


def locate(path: str | Path) -> Location | None:
    """Find the graph and the folder of the configuration; None when ``path`` can only be a hub id.

    An ``onnx`` folder means its int8 graph if there, else its fp32 one. A model folder means its torch weights if
    there, else the graph in its ``onnx`` folder.

    Raises:
        ModelError: nothing lies there, or something that is not a classifier.
    """
    name, path = str(path), Path(path)
    if path.is_file():
        if path.suffix != _ONNX_SUFFIX:
            raise ModelError(f"{path}: not a model; name a model folder, an onnx folder or one .onnx file")
        return Location(_root_of(path.parent), path)
    if not path.is_dir():
        if _may_be_hub_id(name):
            return None
        raise ModelError(f"{path}: no such file or folder; name a model folder, an onnx folder or one .onnx file")
    has_config = (path / ModelFiles.config).is_file()
    if has_config and any((path / name).is_file() for name in (ModelFiles.weights, ModelFiles.weights_index)):
        return Location(path, None)
    for folder in (path, path / ModelFiles.onnx):
        for name in (OnnxFiles.int8, OnnxFiles.fp32):
            if (folder / name).is_file():
                return Location(_root_of(folder), folder / name)
    if others := sorted(str(graph) for graph in (*path.glob("*.onnx"), *path.glob(f"{ModelFiles.onnx}/*.onnx"))):
        raise ModelError(f"{path}: no {OnnxFiles.int8} or {OnnxFiles.fp32} in it; name one file: {', '.join(others)}")
    if has_config:
        return Location(path, None)
    raise ModelError(
        f"{path}: no model in this folder (no {ModelFiles.config}, {ModelFiles.weights} or {OnnxFiles.fp32})"
    )


def _may_be_hub_id(name: str) -> bool:
    """Whether an absent path could be NAME or OWNER/NAME on the hub rather than a folder that was mistyped."""
    parts = Path(name).parts
    if Path(name).is_absolute() or name.startswith(".") or name.endswith(_ONNX_SUFFIX):
        return False
    return len(parts) == 1 or (len(parts) == 2 and not Path(parts[0]).is_dir())


def _root_of(folder: Path) -> Path:
    # "." and ".." have no parent in their text.
    above = folder.resolve().parent if folder.name in ("", "..") else folder.parent
    for root in (folder, above):
        if (root / ModelFiles.config).is_file():
            return root
    raise ModelError(
        f"{folder}: no {ModelFiles.config} in it or in the folder above; keep it and the tokenizer beside the graph"
    )


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
        raise ModelError(f"{ModelFiles.config}: its hrkd entry is not one that hrkd wrote")
    truncate = ours.get("truncate", Truncate.HEAD)
    if truncate not in tuple(Truncate):
        raise ModelError(
            f"{ModelFiles.config}: its hrkd.truncate, {truncate!r}, is not one of {', '.join(Truncate)}; correct it, "
            "or use the version of hrkd that wrote it"
        )
    return Spec(
        config=config,
        heads=DomainHeads.from_config(config),
        max_length=int(ours.get("max_length") or _longest(config, tokenizer_config)),
        pair=ours.get("pair"),
        truncate=Truncate(truncate),
    )


def baked_domain(config: Mapping[str, Any]) -> str | None:
    """Return the domain whose head alone a classifier is; None for one that was not baked."""
    ours = config.get("hrkd")
    return ours.get("domain") if isinstance(ours, dict) else None


def _longest(config: Mapping[str, Any], tokenizer_config: Mapping[str, Any]) -> int:
    """Return the most tokens that both the tokenizer and the position table allow, within the cap."""
    limits = (_LENGTH_CAP, int(tokenizer_config.get("model_max_length") or _LENGTH_CAP), position_limit(config))
    return max(min(limit for limit in limits if limit is not None), 1)


def position_limit(config: Mapping[str, Any]) -> int | None:
    """Return the most tokens that a model's position table allows; None where it has no table."""
    positions = config.get("max_position_embeddings")
    unreached = 2 if config.get("model_type") in POSITIONS_AFTER_PADDING else 0
    return int(positions) - unreached if positions else None
