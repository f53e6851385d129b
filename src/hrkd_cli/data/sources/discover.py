"""What a source holds: which files, in which format, standing for which domain and split. Only names are looked at.

docs/data.md shows the layouts: a file, a file or a folder per domain, a file or a folder per split, Blitzer's reviews,
GLUE's MNLI, a prepared folder, a folder of ``save_to_disk``, and a dataset on the hub.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hrkd_cli import sample
from hrkd_cli.choices import SourceFormat
from hrkd_cli.data.folder import is_prepared
from hrkd_cli.data.names import short
from hrkd_cli.data.sources import amazon, hub
from hrkd_cli.data.sources.columns import Table
from hrkd_cli.data.sources.formats import FORMATS, Format, format_of, named_format
from hrkd_cli.data.sources.text_file import COMPRESSED, split_name
from hrkd_cli.data.sources.values import SPLIT_NAMES
from hrkd_cli.errors import DataError
from hrkd_cli.events import Note, OnEvent, ignore
from hrkd_cli.layout import DATASET, SPLITS

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
    """A file to read, or a split of what the ``datasets`` library loads.

    Attributes:
        where: what it is called in messages.
        open: gives its table, read in an encoding; None is UTF-8, or what a byte order mark says.
        domain: the domain that file or folder name stands for; None when a column has to say it.
        split: the split that the name stands for, if any.
        path: the file; None where ``datasets`` reads it.
        name: the file's path relative to the source, with ``/``.
    """

    where: str
    open: Callable[[str | None], Table]
    domain: str | None = None
    split: str | None = None
    path: Path | None = None
    name: str = ""


def find_source(
    source: str | Path, wanted: SourceFormat = SourceFormat.AUTO, *, on_event: OnEvent = ignore
) -> list[SourceFile]:
    """Return what a source holds, in a fixed order.

    ``sample`` is the built-in sample, unless there is a file or folder of that name.

    Args:
        source: a file, a folder or the id of a hub dataset.
        wanted: its format.
        on_event: told of what looks like data and is not read.

    Raises:
        DataError: there is no such source, or it holds no data in the format that was asked for.
    """
    name = str(source)
    path = None if wanted is SourceFormat.HUB else _existing(name)
    if path is None and wanted is not SourceFormat.HUB and not (wanted is SourceFormat.AUTO and could_be_id(name)):
        raise DataError(f"{name!r}: no such file or folder; check the path (a hub dataset is named owner/name)")
    if path is None or hub.is_saved(path):
        return _find_splits(name, on_event)
    return _find_in_folder(path, wanted, name, on_event) if path.is_dir() else [_single(path, wanted)]


def _existing(source: str) -> Path | None:
    try:
        if source and Path(source).exists():
            return Path(source)
    except (OSError, ValueError):  # too long to be a name, or with a NUL in it
        return None
    return sample.FOLDER if source == sample.NAME else None


def _find_splits(source: str, on_event: OnEvent) -> list[SourceFile]:
    on_event(Note(f"loading {source}"))
    parts, others = hub.load(source)
    if others:
        on_event(Note(f"{source}: splits not read: {short(others)}", warning=True))
    return [SourceFile(where, partial(_loaded, table), split=split) for where, split, table in parts]


def _loaded(table: Table, _encoding: str | None) -> Table:
    return table


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


def source_file(
    source: Path, path: Path, kind: Format, domain: str | None = None, split: str | None = None
) -> SourceFile:
    """Return a file that a source holds, or is."""
    name = path.name if path == source else path.relative_to(source).as_posix()
    return SourceFile(str(path), partial(kind.open, path), domain, split, path, name)


def _single(source: Path, wanted: SourceFormat) -> SourceFile:
    if wanted is SourceFormat.MNLI:
        raise DataError(f"{source}: --format mnli reads the folder that holds train.tsv and dev_matched.tsv")
    kind = format_of(source) if wanted is SourceFormat.AUTO else named_format(wanted)
    if kind is None:
        raise DataError(f"{source}: unknown kind of file; name its format with --format csv, tsv, jsonl or parquet")
    return source_file(source, source, kind, source.resolve().parent.name if kind.name is SourceFormat.AMAZON else None)


def _find_in_folder(source: Path, wanted: SourceFormat, name: str, on_event: OnEvent) -> list[SourceFile]:
    skipped: list[str] = []
    if is_prepared(source):
        paths = sorted(path for split in SPLITS for path in (source / DATASET.data).glob(f"*/{split}.parquet"))
        kind = named_format(SourceFormat.PARQUET)
        files = [source_file(source, path, kind, path.parent.name, path.stem) for path in paths]
    elif wanted in (SourceFormat.AUTO, SourceFormat.MNLI) and (mnli := _mnli_folder(source, wanted)):
        files = _read_mnli(source, mnli, skipped)
    else:
        files = _read_folder(source, wanted, skipped)
    if files:
        if skipped:
            on_event(Note(f"{name}: not read: {short(skipped)}", warning=True))
        return files
    if wanted is SourceFormat.MNLI:
        raise DataError(f"{source}: no train.tsv or dev_matched.tsv in it")
    kind_name = "data" if wanted is SourceFormat.AUTO else f"{wanted} data"
    others = f"; not read: {', '.join(skipped[:5])}" if skipped else ""
    raise DataError(
        f"{source}: no {kind_name} in this folder; expected one CSV, TSV, JSONL or Parquet file per domain, one folder "
        f"per domain, or train/dev/test files{others}"
    )


def _mnli_folder(source: Path, wanted: SourceFormat) -> Path | None:
    """Return GLUE's MNLI folder, which is the source or in it; None where there is none, or several."""
    # Any data may have a train.tsv: alone it makes a folder MNLI's only when the user says so.
    signs = _MNLI_FILES if wanted is SourceFormat.MNLI else ("dev_matched.tsv",)
    folders = {path.parent for path in walk(source) if path.name in signs}
    if source in folders:
        return source
    inner = [folder for folder in folders if folder.parent == source]
    return inner[0] if len(inner) == 1 else None


def _read_mnli(source: Path, folder: Path, skipped: list[str]) -> list[SourceFile]:
    files = []
    for path in walk(folder):
        if path.parent == folder and path.name in _MNLI_FILES:
            files.append(source_file(source, path, named_format(SourceFormat.MNLI), split=_MNLI_FILES[path.name]))
        elif path.parent == folder and looks_like_data(path):
            skipped.append(path.relative_to(source).as_posix())
    return files


def _read_folder(source: Path, wanted: SourceFormat, skipped: list[str]) -> list[SourceFile]:
    files = []
    for path in walk(source):
        *folders, _ = path.relative_to(source).parts
        folder = folders[0] if folders else ""
        stem, _ = split_name(path)
        kind = format_of(path, alone=wanted is SourceFormat.JSONL)
        if len(folders) > 1:
            too_deep = f"{folders[0]}/{folders[1]}/ (too deep)"
            if kind is not None and too_deep not in skipped:
                skipped.append(too_deep)
        elif kind is None or wanted not in (SourceFormat.AUTO, kind.name):
            if looks_like_data(path):
                skipped.append(path.relative_to(source).as_posix())
        elif kind.name is not SourceFormat.AMAZON:
            files.append(source_file(source, path, kind, *_named_by(stem, folder)))
        elif stem in amazon.LABELS:
            files.append(source_file(source, path, kind, folder or source.resolve().name))
    return files


def _named_by(stem: str, folder: str) -> tuple[str | None, str | None]:
    """Return what a file's and its folder's names say, domain and split: ``books.test`` says both, ``test`` a split."""
    # A folder called "train" holds the train files of several domains.
    folder_split = SPLIT_NAMES.get(folder.casefold())
    first, _, last = _SHARD.sub("", stem).rpartition(".")
    split = SPLIT_NAMES.get(last.casefold())
    domain = folder if folder and not folder_split else (first if split else stem)
    return domain or None, split or folder_split
