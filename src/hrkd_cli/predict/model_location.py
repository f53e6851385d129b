"""Locate a classifier on disk: its configuration, its tokenizer, and an ONNX file or torch weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hrkd_cli.errors import ModelError
from hrkd_cli.layout import ModelFiles, OnnxFiles

_ONNX_SUFFIX = ".onnx"


@dataclass(frozen=True, slots=True)
class ModelLocation:
    """A classifier on disk.

    Attributes:
        root: folder with ``config.json`` and the tokenizer.
        onnx_file: the ONNX file; None for torch weights.
    """

    root: Path
    onnx_file: Path | None


def locate_model(path: str | Path) -> ModelLocation | None:
    """Find a classifier's files; None if ``path`` can only be a hub id.

    In an ``onnx`` folder, the int8 file is preferred to the fp32 one. In a model folder, torch weights are preferred to
    the files in its ``onnx`` folder.

    Raises:
        ModelError: nothing is there, or it is not a classifier.
    """
    name, path = str(path), Path(path)
    if path.is_file():
        if path.suffix != _ONNX_SUFFIX:
            raise ModelError(f"{path}: not a model; name a model folder, an onnx folder or one .onnx file")
        return ModelLocation(find_root(path.parent), path)
    if not path.is_dir():
        if may_be_hub_id(name):
            return None
        raise ModelError(f"{path}: no such file or folder; name a model folder, an onnx folder or one .onnx file")
    has_config = (path / ModelFiles.config).is_file()
    if has_config and any((path / name).is_file() for name in (ModelFiles.weights, ModelFiles.weights_index)):
        return ModelLocation(path, None)
    for folder in (path, path / ModelFiles.onnx):
        for name in (OnnxFiles.int8, OnnxFiles.fp32):
            if (folder / name).is_file():
                return ModelLocation(find_root(folder), folder / name)
    if others := sorted(str(file) for file in (*path.glob("*.onnx"), *path.glob(f"{ModelFiles.onnx}/*.onnx"))):
        raise ModelError(f"{path}: no {OnnxFiles.int8} or {OnnxFiles.fp32} in it; name one file: {', '.join(others)}")
    if has_config:
        return ModelLocation(path, None)
    raise ModelError(
        f"{path}: no model in this folder (no {ModelFiles.config}, {ModelFiles.weights} or {OnnxFiles.fp32})"
    )


def may_be_hub_id(name: str) -> bool:
    """Return whether a missing path could be a hub id (NAME or OWNER/NAME), not a mistyped folder."""
    parts = Path(name).parts
    if Path(name).is_absolute() or name.startswith((".", "~")) or name.endswith(_ONNX_SUFFIX) or "\\" in name:
        return False
    return len(parts) == 1 or (len(parts) == 2 and not Path(parts[0]).is_dir())


def find_root(folder: Path) -> Path:
    """Return the folder of ``config.json``: that of the ONNX file, or its parent."""
    # The text of "." and ".." has no parent.
    parent = folder.resolve().parent if folder.name in ("", "..") else folder.parent
    for root in (folder, parent):
        if (root / ModelFiles.config).is_file():
            return root
    raise ModelError(
        f"{folder}: no {ModelFiles.config} in it or in the folder above; keep it and the tokenizer next to the ONNX "
        "file"
    )
