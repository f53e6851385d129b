"""The output folder of an export: worked on in ``onnx.partial/``, and filled only when everything has passed."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from hrkd_cli.errors import OutputError
from hrkd_cli.layout import MODEL, partial
from hrkd_cli.outputs import writing

# Weights and records of the model folder, which a folder with graphs alone does not need.
_NOT_COPIED = (MODEL.weights, MODEL.weights_index, MODEL.run, MODEL.metrics, MODEL.readme)
_COPIED_SUFFIXES = (".json", ".txt", ".model")


def check_graphs(student: Path, root: Path, names: Sequence[str], *, force: bool) -> None:
    """Refuse to replace a graph, or to put graphs beside the configuration of another model.

    Raises:
        OutputError: one of them lies in ``root/onnx``, or ``root`` has another config.json, and ``force`` is not set.
    """
    if root.exists() and not root.is_dir():
        raise OutputError(f"{root}: is a file; give --out a folder")
    if force:
        return
    for file in (root / MODEL.onnx / name for name in names):
        if file.exists():
            raise OutputError(f"{file}: exists already; replace it with --force, or write elsewhere with --out")
    own, there = student / MODEL.config, root / MODEL.config
    if root.resolve() != student.resolve() and there.is_file() and there.read_bytes() != own.read_bytes():
        raise OutputError(
            f"{root}: holds another model ({MODEL.config} differs); write elsewhere with --out, or --force"
        )


@contextlib.contextmanager
def working_folder(target: Path) -> Iterator[Path]:
    """Give a fresh folder beside ``target`` and remove it afterwards, whatever happened.

    Raises:
        OutputError: it cannot be written, or the disk is full.
    """
    folder = partial(target)
    with writing(target, folder):
        try:
            # Left by a run that was killed.
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def copy_description(student: Path, folder: Path) -> list[str]:
    """Copy the student's configuration and tokenizer files, and return their names."""
    names = sorted(
        file.name
        for file in student.iterdir()
        if file.is_file() and file.suffix in _COPIED_SUFFIXES and file.name not in _NOT_COPIED
    )
    for name in names:
        shutil.copyfile(student / name, folder / name)
    return names


def move_in(folder: Path, names: Sequence[str], target: Path) -> None:
    """Move finished files into ``target``, replacing those of the same names and no others."""
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        os.replace(folder / name, target / name)  # noqa: PTH105 - atomic, and its name says that it replaces
