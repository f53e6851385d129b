"""Where a classifier's files are: an ONNX file or torch weights, and the folder of its configuration and tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hrkd_cli.errors import ModelError
from hrkd_cli.layout import ModelFiles, OnnxFiles

_ONNX_SUFFIX = ".onnx"


@dataclass(frozen=True, slots=True)
class ModelLocation:
    """A classifier on disk: folder of ``config.json`` and the tokenizer, and ONNX file (None for torch weights)."""

    root: Path
    onnx_file: Path | None


def locate_model(path: str | Path) -> ModelLocation | None:
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
        return ModelLocation(_root_of(path.parent), path)
    if not path.is_dir():
        if _may_be_hub_id(name):
            return None
        raise ModelError(f"{path}: no such file or folder; name a model folder, an onnx folder or one .onnx file")
    has_config = (path / ModelFiles.config).is_file()
    if has_config and any((path / name).is_file() for name in (ModelFiles.weights, ModelFiles.weights_index)):
        return ModelLocation(path, None)
    for folder in (path, path / ModelFiles.onnx):
        for name in (OnnxFiles.int8, OnnxFiles.fp32):
            if (folder / name).is_file():
                return ModelLocation(_root_of(folder), folder / name)
    if others := sorted(str(graph) for graph in (*path.glob("*.onnx"), *path.glob(f"{ModelFiles.onnx}/*.onnx"))):
        raise ModelError(f"{path}: no {OnnxFiles.int8} or {OnnxFiles.fp32} in it; name one file: {', '.join(others)}")
    if has_config:
        return ModelLocation(path, None)
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
