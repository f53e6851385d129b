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


def refuse_existing(files: Sequence[Path], *, force: bool) -> None:
    """Refuse to replace a file.

    Raises:
        OutputError: one exists, and ``force`` is not set.
    """
    existing = [file for file in files if file.exists()]
    if existing and not force:
        raise OutputError(f"{existing[0]}: exists already; replace it with --force, or write elsewhere with --out")


def refuse_other_model(student: Path, root: Path, *, force: bool) -> None:
    """Refuse to put graphs beside the configuration of another model.

    Raises:
        OutputError: ``root`` has a config.json that is not the student's, and ``force`` is not set.
    """
    config = root / MODEL.config
    if root.resolve() == student.resolve() or not config.is_file() or force:
        return
    if config.read_bytes() != (student / MODEL.config).read_bytes():
        raise OutputError(
            f"{root}: holds another model ({MODEL.config} differs); write elsewhere with --out, or --force"
        )


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
