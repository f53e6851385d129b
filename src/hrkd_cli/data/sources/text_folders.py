"""Folders of texts: a folder for each label, with one text in each file, as in aclImdb and 20 Newsgroups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from hrkd_cli.data.sources.file_names import parse_names
from hrkd_cli.data.sources.row_reader import RowReader, SourceFile, SourceRow
from hrkd_cli.data.sources.text_file import TextFile

_SUFFIXES = (".txt", "")
_UNLABELED = frozenset({"unsup", "unsupervised", "unlabeled", "unlabelled"})


def find_text_folders(source: Path, paths: Sequence[Path], skipped: list[str]) -> list[SourceFile]:
    """Return the innermost folders of text files, each as one file of a label; none if all have the same label.

    The folders above give the domain and the split. Folders without labels are added to ``skipped``.
    """
    folders: dict[Path, list[Path]] = {}
    for path in paths:
        if path.is_file() and path.parent != source and (path.suffix in _SUFFIXES or path.suffix[1:].isdecimal()):
            folders.setdefault(path.parent, []).append(path)
    outer = {parent for folder in folders for parent in folder.parents}
    found = []
    for folder, texts in folders.items():
        relative_path = folder.relative_to(source).as_posix()
        if folder.name.lower() in _UNLABELED:
            skipped.append(f"{relative_path}/")
        elif folder not in outer:
            *above, label = relative_path.split("/")
            domain, split = parse_names(above.pop() if above else "", above[-1] if above else "")
            opener = partial(_open_folder, label, texts)
            found.append(SourceFile(str(folder), opener, domain, split, folder, relative_path))
    if len({Path(file.relative_path).name for file in found}) < 2:
        return []
    read = tuple(f"{file.relative_path}/" for file in found)
    skipped[:] = [name for name in skipped if not name.startswith(read)]
    return found


def _open_folder(label: str, texts: Sequence[Path], encoding: str | None = None, has_header: bool = True) -> RowReader:
    def iter_rows(indices: Sequence[int]) -> Iterator[SourceRow]:
        for number, path in enumerate(texts, start=1):
            with TextFile(path, encoding).open() as stream:
                values = (stream.read().strip(), label)
            yield number, [values[index] for index in indices]

    return RowReader(["text", "label"], iter_rows)
