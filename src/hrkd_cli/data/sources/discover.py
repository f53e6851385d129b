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
from dataclasses import dataclass, field
from pathlib import Path

from hrkd_cli import sample
from hrkd_cli.choices import SourceFormat
from hrkd_cli.data.folder import is_prepared
from hrkd_cli.data.sources import amazon
from hrkd_cli.data.sources.formats import FORMATS, SourceFile, format_of, named_format
from hrkd_cli.data.sources.text_file import COMPRESSED, plain_stem, plain_suffix
from hrkd_cli.data.sources.values import SPLIT_NAMES
from hrkd_cli.errors import DataError, UsageError
from hrkd_cli.layout import DATASET, SPLITS

_MNLI_FILES = {"train.tsv": "train", "dev_matched.tsv": "test"}
_SHARD = re.compile(r"-\d+-of-\d+$")
# What a mistyped path may end with; no hub id does.
DATA_SUFFIXES = frozenset(
    {suffix for entry in FORMATS for suffix in entry.suffixes + entry.alone}
    | COMPRESSED
    | {".txt", ".xml", ".zip", ".xls", ".xlsx"}
)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(:[\w.+-]+)?")
SAVED = ("dataset_dict.json", "state.json")
# Files that lie beside data and are no data.
_COMPANIONS = re.compile(r"(readme|licen[cs]e|notice|citation|changelog|attribution|copying|makefile)\b", re.IGNORECASE)
_NO_DATA_SUFFIXES = frozenset({".md", ".rst", ".py", ".sh", ".ipynb", ".pdf", ".html", ".yml", ".yaml", ".toml"})


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


def parse_format(name: SourceFormat | str) -> SourceFormat:
    """Return the format of that name.

    Raises:
        UsageError: there is none.
    """
    try:
        return SourceFormat(name)
    except ValueError:
        raise UsageError(f"--format: {name!r} is not one of {', '.join(SourceFormat)}") from None


def find_source(source: str | Path, wanted: SourceFormat) -> Found:
    """Return what a source holds.

    ``sample`` is the built-in sample, unless there is a file or folder of that name.

    Raises:
        DataError: there is no such source, or it holds no data.
    """
    path = Path(source)
    if wanted is SourceFormat.HUB:
        return Found(dataset=str(source))
    try:
        exists = bool(str(source)) and path.exists()
    except (OSError, ValueError):
        exists = False
    if exists:
        return discover(path, wanted)
    if str(source) == sample.NAME:
        return discover(sample.FOLDER, wanted)
    if wanted is SourceFormat.AUTO and could_be_id(str(source)):
        return Found(dataset=str(source))
    raise DataError(f"{str(source)!r}: no such file or folder; check the path (a hub dataset is named owner/name)")


def could_be_id(source: str) -> bool:
    """Tell whether a source that is no file here could be a hub id: ``name``, ``owner/name`` or ``owner/name:config``.

    What ends like a data file, or lies in a folder that is here, is a mistyped path.
    """
    if not _HUB_ID.fullmatch(source) or Path(source).suffix.lower() in DATA_SUFFIXES:
        return False
    return "/" not in source or not Path(source.split("/", maxsplit=1)[0]).is_dir()


def discover(source: Path, wanted: SourceFormat) -> Found:
    """List the files of a source that exists.

    Raises:
        DataError: there is no data in it, or not in the format that was asked for.
    """
    if not source.is_dir():
        return Found([_single(source, wanted)])
    if is_prepared(source):
        found = _prepared(source)
    elif any((source / name).is_file() for name in SAVED):
        return Found(dataset=str(source))
    else:
        mnli = _mnli_folder(source, wanted) if wanted in (SourceFormat.AUTO, SourceFormat.MNLI) else None
        found = _mnli(source, mnli) if mnli else _folder(source, wanted)
    if not found.files:
        raise DataError(_nothing(source, wanted, found.skipped))
    return found


def _single(source: Path, wanted: SourceFormat) -> SourceFile:
    if wanted is SourceFormat.MNLI:
        raise DataError(f"{source}: --format mnli reads the folder that holds train.tsv and dev_matched.tsv")
    kind = format_of(source) if wanted is SourceFormat.AUTO else named_format(wanted)
    if kind is None:
        raise DataError(f"{source}: unknown kind of file; name its format with --format csv, tsv, jsonl or parquet")
    domain = source.resolve().parent.name if kind.name is SourceFormat.AMAZON else None
    return SourceFile(source, source.name, kind, domain=domain)


def _prepared(source: Path) -> Found:
    folder = source / DATASET.data
    paths = [path for split in SPLITS for path in folder.glob(f"*/{split}.parquet")]
    kind = named_format(SourceFormat.PARQUET)
    return Found(
        [
            SourceFile(path, path.relative_to(source).as_posix(), kind, path.parent.name, path.stem)
            for path in sorted(paths)
        ]
    )


def _mnli_folder(source: Path, wanted: SourceFormat) -> Path | None:
    # Any data may have a train.tsv: alone it makes a folder MNLI's only when the user says so.
    signs = _MNLI_FILES if wanted is SourceFormat.MNLI else ("dev_matched.tsv",)
    candidates = [source, *(entry for entry in _entries(source) if entry.is_dir())]
    folders = [folder for folder in candidates if any((folder / name).is_file() for name in signs)]
    return folders[0] if len(folders) == 1 or source in folders else None


def _mnli(source: Path, folder: Path) -> Found:
    found = Found()
    kind = named_format(SourceFormat.MNLI)
    for entry in _entries(folder):
        name = entry.relative_to(source).as_posix()
        if entry.name in _MNLI_FILES:
            found.files.append(SourceFile(entry, name, kind, split=_MNLI_FILES[entry.name]))
        elif entry.is_file() and looks_like_data(entry):
            found.skipped.append(name)
    return found


def _folder(source: Path, wanted: SourceFormat) -> Found:
    found = Found()
    for entry in _entries(source):
        if not entry.is_dir():
            _add(found, source, entry, wanted)
            continue
        for inner in _entries(entry):
            if inner.is_file():
                _add(found, source, inner, wanted, folder=entry.name)
            elif any(format_of(path, alone=False) for path in inner.rglob("*")):
                found.skipped.append(f"{inner.relative_to(source).as_posix()}/ (too deep)")
    return found


def _add(found: Found, source: Path, path: Path, wanted: SourceFormat, folder: str | None = None) -> None:
    """Add a file; ``folder`` is the name of the folder below the source that it lies in."""
    name = path.relative_to(source).as_posix()
    kind = format_of(path, alone=wanted is SourceFormat.JSONL)
    if kind is None or wanted not in (SourceFormat.AUTO, kind.name):
        if looks_like_data(path):
            found.skipped.append(name)
        return
    if kind.name is SourceFormat.AMAZON:
        if plain_stem(path) in amazon.LABELS:
            found.files.append(SourceFile(path, name, kind, domain=folder or source.resolve().name))
        return
    # A folder called "train" holds the train files of several domains.
    folder_split = SPLIT_NAMES.get((folder or "").casefold())
    stem, split = _split_of(plain_stem(path))
    domain = folder if folder and not folder_split else stem or None
    found.files.append(SourceFile(path, name, kind, domain=domain, split=split or folder_split))


def _split_of(stem: str) -> tuple[str, str | None]:
    """Return (domain or "", split) of a file name: ``books.test`` is of both, ``test`` of a split only."""
    domain, _, last = _SHARD.sub("", stem).rpartition(".")
    split = SPLIT_NAMES.get(last.casefold())
    return (domain, split) if split else (stem, None)


def _entries(folder: Path) -> list[Path]:
    try:
        entries = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror or error}") from None
    return [entry for entry in entries if not entry.name.startswith((".", "__"))]


def looks_like_data(path: Path) -> bool:
    """Tell, by its name, a file that is neither about the data nor a program."""
    return not _COMPANIONS.match(path.name) and plain_suffix(path) not in _NO_DATA_SUFFIXES


def _nothing(source: Path, wanted: SourceFormat, skipped: list[str]) -> str:
    if wanted is SourceFormat.MNLI:
        return f"{source}: no train.tsv or dev_matched.tsv in it"
    kind = "data" if wanted is SourceFormat.AUTO else f"{wanted} data"
    others = f"; not read: {', '.join(skipped[:5])}" if skipped else ""
    return (
        f"{source}: no {kind} in this folder; expected one CSV, TSV, JSONL or Parquet file per domain, one folder per "
        f"domain, or train/dev/test files{others}"
    )
