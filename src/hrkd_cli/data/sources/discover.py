"""What a source holds: which files, in which format, standing for which domain and split. Only names are looked at.

=====================================  ==============================================================================
source                                 domain and split
=====================================  ==============================================================================
a file                                 a column says the domain; a ``split`` column may say the split
a folder with ``books.csv``            the file's name is the domain; ``books.test.csv`` has a split too
a folder with ``books/``               the folder's name is the domain; ``books/test.csv`` has a split too
a folder with ``train.csv``            a column says the domain, the file's name the split
a folder with ``books/x.review``       Blitzer's data: positive.review and negative.review
a folder with ``dev_matched.tsv``      GLUE's MNLI: the genre is the domain, dev_matched.tsv the test split
a folder with ``dataset.json``         a prepared dataset
a folder of ``save_to_disk``           a column says the domain; the dataset's own splits
``owner/name``                         the same, from the hub
=====================================  ==============================================================================
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hrkd_cli import sample
from hrkd_cli.choices import SourceFormat
from hrkd_cli.data.folder import is_prepared
from hrkd_cli.data.sources import amazon
from hrkd_cli.data.sources.formats import FORMATS, Format, format_of, named_format
from hrkd_cli.data.sources.text_file import COMPRESSED, split_name
from hrkd_cli.data.sources.values import SPLIT_NAMES
from hrkd_cli.errors import DataError
from hrkd_cli.layout import DATASET, SPLITS

SAVED = ("dataset_dict.json", "state.json")
_MNLI_FILES = {"train.tsv": "train", "dev_matched.tsv": "test"}
_SHARD = re.compile(r"-\d+-of-\d+$")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(:[\w.+-]+)?")
# What a mistyped path may end with; no hub id does.
_DATA_SUFFIXES = {suffix for entry in FORMATS for suffix in entry.suffixes + entry.alone if suffix}
_DATA_SUFFIXES |= COMPRESSED | {".xml", ".zip", ".xls", ".xlsx"}
# Files that lie beside data and are no data.
_COMPANIONS = re.compile(r"(readme|licen[cs]e|notice|citation|changelog|attribution|copying|makefile)\b", re.IGNORECASE)
_NO_DATA_SUFFIXES = frozenset({".md", ".rst", ".py", ".sh", ".ipynb", ".pdf", ".html", ".yml", ".yaml", ".toml"})


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file to read.

    Attributes:
        path: where it is, as the user would name it.
        name: its path relative to the source, with ``/``.
        format: how it is read.
        domain: the domain that file or folder name stands for; None when a column has to say it.
        split: the split that the file name stands for, if any.
    """

    path: Path
    name: str
    format: Format
    domain: str | None = None
    split: str | None = None


@dataclass(slots=True)
class Found:
    """What a source holds.

    Attributes:
        files: the files to read, in a fixed order.
        skipped: names, relative to the source, of files that look like data and are not read.
        dataset: what the ``datasets`` library reads instead of files: a hub id, or a folder of ``save_to_disk``.
    """

    files: list[SourceFile] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    dataset: str | None = None


def find_source(source: str | Path, wanted: SourceFormat = SourceFormat.AUTO) -> Found:
    """Return what a source holds.

    ``sample`` is the built-in sample, unless there is a file or folder of that name.

    Raises:
        DataError: there is no such source, or it holds no data in the format that was asked for.
    """
    path = Path(source)
    if wanted is SourceFormat.HUB:
        return Found(dataset=str(source))
    try:
        exists = bool(str(source)) and path.exists()
    except (OSError, ValueError):
        exists = False
    if not exists and str(source) == sample.NAME:
        path, exists = sample.FOLDER, True
    if not exists and wanted is SourceFormat.AUTO and could_be_id(str(source)):
        return Found(dataset=str(source))
    if not exists:
        raise DataError(f"{str(source)!r}: no such file or folder; check the path (a hub dataset is named owner/name)")
    return _find_in_folder(path, wanted) if path.is_dir() else Found([_single(path, wanted)])


def could_be_id(source: str) -> bool:
    """Tell whether a source that is no file here could be a hub id: ``name``, ``owner/name`` or ``owner/name:config``.

    What ends like a data file, or lies in a folder that is here, is a mistyped path.
    """
    if not _HUB_ID.fullmatch(source) or Path(source).suffix.lower() in _DATA_SUFFIXES:
        return False
    return "/" not in source or not Path(source.split("/", maxsplit=1)[0]).is_dir()


def walk(folder: Path, depth: int = 0) -> Iterator[Path]:
    """Yield the files of a folder and of the folders in it, sorted by name; what begins with . or __ is left out.

    Raises:
        DataError: a folder cannot be read.
    """
    try:
        entries = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror or error}") from None
    for entry in entries:
        if entry.name.startswith((".", "__")):
            continue
        if not entry.is_dir():
            yield entry
        elif depth < 2 or not entry.is_symlink():  # a link may lead round in a circle
            yield from walk(entry, depth + 1)


def looks_like_data(path: Path) -> bool:
    """Tell, by its name, a file that is neither about the data nor a program."""
    return not _COMPANIONS.match(path.name) and split_name(path)[1] not in _NO_DATA_SUFFIXES


def _single(source: Path, wanted: SourceFormat) -> SourceFile:
    if wanted is SourceFormat.MNLI:
        raise DataError(f"{source}: --format mnli reads the folder that holds train.tsv and dev_matched.tsv")
    kind = format_of(source) if wanted is SourceFormat.AUTO else named_format(wanted)
    if kind is None:
        raise DataError(f"{source}: unknown kind of file; name its format with --format csv, tsv, jsonl or parquet")
    domain = source.resolve().parent.name if kind.name is SourceFormat.AMAZON else None
    return SourceFile(source, source.name, kind, domain=domain)


def _find_in_folder(source: Path, wanted: SourceFormat) -> Found:
    if is_prepared(source):
        found = _prepared(source)
    elif any((source / name).is_file() for name in SAVED):
        return Found(dataset=str(source))
    else:
        is_mnli = wanted in (SourceFormat.AUTO, SourceFormat.MNLI)
        found = (_mnli(source, wanted) if is_mnli else None) or _folder(source, wanted)
    if found.files:
        return found
    if wanted is SourceFormat.MNLI:
        raise DataError(f"{source}: no train.tsv or dev_matched.tsv in it")
    kind = "data" if wanted is SourceFormat.AUTO else f"{wanted} data"
    others = f"; not read: {', '.join(found.skipped[:5])}" if found.skipped else ""
    raise DataError(
        f"{source}: no {kind} in this folder; expected one CSV, TSV, JSONL or Parquet file per domain, one folder per "
        f"domain, or train/dev/test files{others}"
    )


def _prepared(source: Path) -> Found:
    kind = named_format(SourceFormat.PARQUET)
    paths = sorted(path for split in SPLITS for path in (source / DATASET.data).glob(f"*/{split}.parquet"))
    names = [path.relative_to(source).as_posix() for path in paths]
    return Found(
        [SourceFile(path, name, kind, path.parent.name, path.stem) for path, name in zip(paths, names, strict=True)]
    )


def _mnli(source: Path, wanted: SourceFormat) -> Found | None:
    """Return what GLUE's MNLI folder holds, which is the source or in it; None where there is none."""
    # Any data may have a train.tsv: alone it makes a folder MNLI's only when the user says so.
    signs = _MNLI_FILES if wanted is SourceFormat.MNLI else ("dev_matched.tsv",)
    folders = list(dict.fromkeys(path.parent for path in walk(source) if path.name in signs))
    folders = [folder for folder in folders if source in (folder, folder.parent)]
    if not folders or (len(folders) > 1 and source not in folders):
        return None
    folder = source if source in folders else folders[0]
    found = Found()
    for path in walk(folder):
        name = path.relative_to(source).as_posix()
        if path.parent == folder and path.name in _MNLI_FILES:
            found.files.append(SourceFile(path, name, named_format(SourceFormat.MNLI), split=_MNLI_FILES[path.name]))
        elif path.parent == folder and looks_like_data(path):
            found.skipped.append(name)
    return found


def _folder(source: Path, wanted: SourceFormat) -> Found:
    found = Found()
    for path in walk(source):
        *folders, _ = path.relative_to(source).parts
        name = path.relative_to(source).as_posix()
        kind = format_of(path, alone=wanted is SourceFormat.JSONL)
        if len(folders) > 1:
            too_deep = f"{folders[0]}/{folders[1]}/ (too deep)"
            if kind is not None and too_deep not in found.skipped:
                found.skipped.append(too_deep)
        elif kind is None or wanted not in (SourceFormat.AUTO, kind.name):
            if looks_like_data(path):
                found.skipped.append(name)
        elif kind.name is not SourceFormat.AMAZON:
            found.files.append(_source_file(path, name, kind, folders[0] if folders else ""))
        elif split_name(path)[0] in amazon.LABELS:
            domain = folders[0] if folders else source.resolve().name
            found.files.append(SourceFile(path, name, kind, domain=domain))
    return found


def _source_file(path: Path, name: str, kind: Format, folder: str) -> SourceFile:
    """Return a file with what its name and its folder's say: ``books.test`` is of both, ``test`` of a split only."""
    # A folder called "train" holds the train files of several domains.
    folder_split = SPLIT_NAMES.get(folder.casefold())
    stem, _ = split_name(path)
    first, _, last = _SHARD.sub("", stem).rpartition(".")
    split = SPLIT_NAMES.get(last.casefold())
    domain = folder if folder and not folder_split else (first if split else stem)
    return SourceFile(path, name, kind, domain or None, split or folder_split)
