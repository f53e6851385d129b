"""What a source holds: which files, in which format, standing for which domain and split. Only names are looked at.

docs/data.md shows the layouts: a file, a file or a folder per domain, a file or a folder per split, Blitzer's reviews,
GLUE's MNLI, a prepared folder, a folder of ``save_to_disk``, and a dataset on the hub.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from hrkd_cli import sample
from hrkd_cli.choices import SourceFormat
from hrkd_cli.data.dataset_folder import is_prepared
from hrkd_cli.data.names import short
from hrkd_cli.data.sources import amazon, hub
from hrkd_cli.data.sources.columns import SourceFile
from hrkd_cli.data.sources.formats import FORMATS, LINES, Format, format_of, named_format
from hrkd_cli.data.sources.text_file import COMPRESSED, split_name
from hrkd_cli.data.sources.values import SPLIT_NAMES
from hrkd_cli.errors import DataError
from hrkd_cli.events import Note, OnEvent, ignore
from hrkd_cli.layout import SPLITS, DatasetFiles

_MNLI_FILES = {"train.tsv": "train", "dev_matched.tsv": "test"}
_SHARD = re.compile(r"-\d+-of-\d+$")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(:[\w.+-]+)?")
# What a mistyped path may end with; no hub id does.
_DATA_SUFFIXES = {suffix for entry in FORMATS for suffix in entry.suffixes + entry.alone if suffix}
_DATA_SUFFIXES |= COMPRESSED | {".xml", ".zip", ".xls", ".xlsx"}
# Files that lie beside data and are no data.
_COMPANIONS = re.compile(
    r"(readme|licen[cs]e|notice|citation|changelog|attribution|copying|makefile|unlabeled\.review)\b", re.IGNORECASE
)
_NO_DATA_SUFFIXES = frozenset({".md", ".rst", ".py", ".sh", ".ipynb", ".pdf", ".html", ".yml", ".yaml", ".toml"})


def find_source(
    source: str | Path,
    wanted: SourceFormat = SourceFormat.AUTO,
    *,
    labelled: bool = True,
    on_event: OnEvent = ignore,
) -> list[SourceFile]:
    """Return what a source holds, in a fixed order.

    ``sample`` is the built-in sample, unless there is a file or folder of that name.

    Args:
        source: a file, a folder or the id of a hub dataset.
        wanted: its format.
        labelled: whether rows need labels; where not, a folder is read to any depth, and a text file is a text a line.
        on_event: told of what looks like data and is not read.

    Raises:
        DataError: there is no such source, or it holds no data in the format that was asked for.
    """
    name = str(source)
    path = None if wanted is SourceFormat.HUB else _existing(name)
    if path is None and wanted is not SourceFormat.HUB and not (wanted is SourceFormat.AUTO and could_be_id(name)):
        raise DataError(f"{name!r}: no such file or folder; check the path (a hub dataset is named owner/name)")
    if path is None or hub.is_saved(path):
        return hub.find_splits(name, on_event)
    if not path.is_dir():
        return [_single(path, wanted, labelled)]
    return _find_in_folder(path, wanted, labelled, name, on_event)


def _existing(source: str) -> Path | None:
    try:
        if source and Path(source).exists():
            return Path(source)
    except (OSError, ValueError):  # too long to be a name, or with a NUL in it
        return None
    return sample.FOLDER if source == sample.NAME else None


def could_be_id(source: str) -> bool:
    """Tell whether a source that is no file here could be a hub id: ``name``, ``owner/name`` or ``owner/name:config``.

    What ends like a data file, or lies in a folder that is here, is a mistyped path.
    """
    if not _HUB_ID.fullmatch(source) or Path(source).suffix.lower() in _DATA_SUFFIXES:
        return False
    return "/" not in source or not Path(source.split("/", maxsplit=1)[0]).is_dir()


def _walk(folder: Path, depth: int = 0) -> Iterator[Path]:
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
            yield from _walk(entry, depth + 1)


def _looks_like_data(path: Path) -> bool:
    """Tell, by its name, a file that is neither about the data nor a program."""
    return not _COMPANIONS.match(path.name) and split_name(path)[1] not in _NO_DATA_SUFFIXES


def _single(source: Path, wanted: SourceFormat, labelled: bool) -> SourceFile:
    if wanted is SourceFormat.MNLI:
        raise DataError(f"{source}: --format mnli reads the folder that holds train.tsv and dev_matched.tsv")
    kind = format_of(source, labelled=labelled) if wanted is SourceFormat.AUTO else named_format(wanted)
    if kind is None and labelled:
        raise DataError(f"{source}: unknown kind of file; name its format with --format csv, tsv, jsonl or parquet")
    kind = kind or LINES
    domain = source.parent.resolve().name if kind.name is SourceFormat.AMAZON else None
    return SourceFile(str(source), partial(kind.open, source), domain, path=source, name=source.name)


def _find_in_folder(
    source: Path, wanted: SourceFormat, labelled: bool, name: str, on_event: OnEvent
) -> list[SourceFile]:
    skipped: list[str] = []
    if is_prepared(source):
        paths = sorted(path for split in SPLITS for path in (source / DatasetFiles.data).glob(f"*/{split}.parquet"))
        kind = named_format(SourceFormat.PARQUET)
        files = [_in_folder(source, path, kind, path.parent.name, path.stem) for path in paths]
    else:
        files = _read_folder(source, wanted, labelled, skipped)
    if files:
        if skipped:
            on_event(Note(f"{name}: not read: {short(skipped)}", warning=True))
        return files
    if wanted is SourceFormat.MNLI:
        raise DataError(f"{source}: no train.tsv or dev_matched.tsv in it")
    kind_name = "data" if wanted is SourceFormat.AUTO else f"{wanted} data"
    others = f"; not read: {short(skipped)}" if skipped else ""
    formats = "CSV, TSV, JSONL or Parquet" if labelled else "CSV, TSV, JSONL, Parquet or .txt"
    raise DataError(
        f"{source}: no {kind_name} in this folder; expected one {formats} file per domain, one folder per domain, or "
        f"train/dev/test files{others}"
    )


def _read_folder(source: Path, wanted: SourceFormat, labelled: bool, skipped: list[str]) -> list[SourceFile]:
    """Return the files that are read; add to ``skipped`` what looks like data and is not read."""
    mnli = _mnli_folder(source, wanted) if labelled and wanted in (SourceFormat.AUTO, SourceFormat.MNLI) else None
    files = []
    for path in _walk(mnli or source):
        *folders, _ = path.relative_to(source).parts
        kind = _format_in_folder(path, wanted, labelled, mnli)
        if labelled and len(folders) > 1:
            too_deep = f"{folders[0]}/{folders[1]}/ (too deep)"
            if kind is not None and too_deep not in skipped:
                skipped.append(too_deep)
        elif kind is not None:
            files.append(_in_folder(source, path, kind, *_named_by(path, "".join(folders[:1]), kind)))
        elif _looks_like_data(path):
            skipped.append(path.relative_to(source).as_posix())
    return files


def _in_folder(source: Path, path: Path, kind: Format, domain: str | None, split: str | None) -> SourceFile:
    return SourceFile(str(path), partial(kind.open, path), domain, split, path, path.relative_to(source).as_posix())


def _mnli_folder(source: Path, wanted: SourceFormat) -> Path | None:
    """Return GLUE's MNLI folder, which is the source or in it; None where there is none, or several."""
    # Any data may have a train.tsv: alone it makes a folder MNLI's only when the user says so.
    signs = _MNLI_FILES if wanted is SourceFormat.MNLI else ("dev_matched.tsv",)
    folders = {path.parent for sign in signs for path in (*source.glob(sign), *source.glob(f"*/{sign}"))}
    if source in folders:
        return source
    return folders.pop() if len(folders) == 1 else None


def _format_in_folder(path: Path, wanted: SourceFormat, labelled: bool, mnli: Path | None) -> Format | None:
    """Return the format in which a file of a folder is read; None where it is not read."""
    if mnli is not None:
        return named_format(SourceFormat.MNLI) if path.parent == mnli and path.name in _MNLI_FILES else None
    kind = format_of(path, alone=wanted is SourceFormat.JSONL or not labelled, labelled=labelled)
    if kind is None or wanted not in (SourceFormat.AUTO, kind.name):
        return None
    if kind.name is SourceFormat.AMAZON and labelled and split_name(path)[0] not in amazon.LABELS:
        return None
    return kind if kind is not LINES or _looks_like_data(path) else None


def _named_by(path: Path, folder: str, kind: Format) -> tuple[str | None, str | None]:
    """Return what a file's and its folder's names say, domain and split: ``books.test`` says both, ``test`` a split."""
    if kind.name is SourceFormat.MNLI:
        return None, _MNLI_FILES[path.name]
    if kind.name is SourceFormat.AMAZON:
        return path.parent.resolve().name, None
    stem, _ = split_name(path)
    # A folder called "train" holds the train files of several domains.
    folder_split = SPLIT_NAMES.get(folder.casefold())
    first, _, last = _SHARD.sub("", stem).rpartition(".")
    split = SPLIT_NAMES.get(last.casefold())
    domain = folder if folder and not folder_split else (first if split else stem)
    return domain or None, split or folder_split
