"""Texts whose label is a name: a folder for each label with one text per file, or a file with one text per line.

aclImdb and 20 Newsgroups have such folders.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from hrkd_cli.data.sources.file_names import parse_names
from hrkd_cli.data.sources.formats import FileFormat
from hrkd_cli.data.sources.row_reader import RowReader, SourceFile, check_open_options, make_reader
from hrkd_cli.data.sources.text_file import TextFile

_SUFFIXES = (".txt", "")
_SENTIMENTS = frozenset({"pos", "neg", "positive", "negative", "neutral"})
_UNLABELED = frozenset({"unsup", "unsupervised", "unlabeled", "unlabelled"})


def find_text_folders(source: Path, paths: Sequence[Path], skipped: list[str]) -> list[SourceFile]:
    """Return the files named like labels, else the innermost folders of text files, each as one file of a label.

    The folders above give the domain and the split. Returns none if all have the same label. Folders without labels are
    added to ``skipped``.
    """
    folders: dict[Path, list[Path]] = {}
    for path in paths:
        if path.is_file() and (path.suffix in _SUFFIXES or path.suffix[1:].isdecimal()):
            folders.setdefault(path.parent, []).append(path)
    if _are_labels([{path.stem for path in texts} for texts in folders.values()]):
        lines = [path for texts in folders.values() for path in texts]
        openers = {path: partial(FileFormat(partial(_open_lines, path.stem)).open, path) for path in lines}
    else:
        outer = {source} | {parent for folder in folders for parent in folder.parents}
        inner = {folder: texts for folder, texts in folders.items() if folder not in outer}
        openers = {folder: partial(_open_folder, folder.name, texts) for folder, texts in inner.items()}
    found = []
    for path, opener in openers.items():
        relative_path = path.relative_to(source).as_posix()
        if path.name.lower() in _UNLABELED:
            skipped.append(f"{relative_path}/")
            continue
        *above, _ = relative_path.split("/")
        domain, split = parse_names(above.pop() if above else "", above[-1] if above else "")
        found.append(SourceFile(str(path), opener, domain, split, path, relative_path))
    if len({Path(file.relative_path).name for file in found}) < 2:
        return []
    read = tuple(name if (source / name).is_file() else f"{name}/" for name in (file.relative_path for file in found))
    skipped[:] = [name for name in skipped if not name.startswith(read)]
    return found


def _are_labels(names: Sequence[set[str]]) -> bool:
    """Return whether files are named like labels: the same words in several folders, or usual sentiments in one."""
    if not names or len(names[0]) < 2 or any(other != names[0] for other in names):
        return False
    return all(map(str.isalpha, names[0])) if len(names) > 1 else names[0] <= _SENTIMENTS


def _open_lines(label: str, file: TextFile) -> RowReader:
    def iter_rows() -> Iterator[tuple[int, Sequence[object]]]:
        return ((number, (line, label)) for number, line in file.lines() if line.strip())

    return make_reader(["text", "label"], iter_rows, "each file has the texts of one label, its name, one per line")


def _open_folder(label: str, texts: Sequence[Path], encoding: str | None = None, has_header: bool = True) -> RowReader:
    check_open_options(texts[0].parent, has_header=has_header)

    def iter_rows() -> Iterator[tuple[int, Sequence[object]]]:
        for number, path in enumerate(texts, start=1):
            with TextFile(path, encoding).open() as stream:
                text = stream.read().strip()
            yield number, (text, label)

    return make_reader(["text", "label"], iter_rows)
