"""What a source holds: which files, in which format, standing for which domain and split. No file is read but headers.

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
=====================================  ==============================================================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from hrkd_cli.choices import SourceFormat
from hrkd_cli.data.manifest import is_prepared
from hrkd_cli.data.sources import amazon
from hrkd_cli.data.sources.records import SourceFile
from hrkd_cli.data.sources.values import SPLIT_NAMES
from hrkd_cli.errors import DataError
from hrkd_cli.layout import DATASET, SPLITS

FORMATS = {
    ".csv": SourceFormat.CSV,
    ".tsv": SourceFormat.TSV,
    ".jsonl": SourceFormat.JSONL,
    ".ndjson": SourceFormat.JSONL,
    ".parquet": SourceFormat.PARQUET,
    amazon.SUFFIX: SourceFormat.AMAZON,
}
MNLI_FILES = {"train.tsv": "train", "dev_matched.tsv": "test"}

# Read when it is the source itself; in a folder such a file is more often something about the data.
ALONE = {".json": SourceFormat.JSONL, ".tab": SourceFormat.TSV, ".pq": SourceFormat.PARQUET}
_SHARD = re.compile(r"-\d+-of-\d+$")
# What a mistyped path may end with; no hub id does.
DATA_SUFFIXES = frozenset({*FORMATS, *ALONE, ".txt", ".xml", ".zip", ".gz", ".xls", ".xlsx"})
# Files that lie beside data and are no data.
_COMPANIONS = re.compile(r"(readme|licen[cs]e|notice|citation|changelog|attribution|copying|makefile)\b", re.IGNORECASE)
_NO_DATA_SUFFIXES = frozenset({".md", ".rst", ".py", ".sh", ".ipynb", ".pdf", ".html", ".yml", ".yaml", ".toml"})


@dataclass(slots=True)
class Found:
    """What a source holds.

    Attributes:
        files: the files to read, in a fixed order.
        skipped: names, relative to the source, of files that look like data and are not read.
    """

    files: list[SourceFile] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def discover(source: Path, wanted: SourceFormat) -> Found:
    """List the files of a source that exists.

    Raises:
        DataError: there is no data in it, or not in the format that was asked for.
    """
    if not source.is_dir():
        return Found([_single(source, wanted)])
    if is_prepared(source):
        found = _prepared(source)
    else:
        mnli = _mnli_folder(source, wanted) if wanted in (SourceFormat.AUTO, SourceFormat.MNLI) else None
        found = _mnli(source, mnli) if mnli else _folder(source, wanted)
    if not found.files:
        raise DataError(_nothing(source, wanted, found.skipped))
    return found


def _single(source: Path, wanted: SourceFormat) -> SourceFile:
    kind = {**FORMATS, **ALONE}.get(source.suffix.lower())
    if wanted is SourceFormat.MNLI:
        raise DataError(f"{source}: --format mnli reads the folder that holds train.tsv and dev_matched.tsv")
    if wanted is not SourceFormat.AUTO:
        kind = wanted
    if kind is None:
        raise DataError(f"{source}: unknown kind of file; name its format with --format csv, tsv, jsonl or parquet")
    domain = source.resolve().parent.name if kind is SourceFormat.AMAZON else None
    return SourceFile(source, source.name, kind, domain=domain)


def _prepared(source: Path) -> Found:
    folder = source / DATASET.data
    paths = [path for split in SPLITS for path in folder.glob(f"*/{split}.parquet")]
    return Found(
        [
            SourceFile(path, path.relative_to(source).as_posix(), SourceFormat.PARQUET, path.parent.name, path.stem)
            for path in sorted(paths)
        ]
    )


def _mnli_folder(source: Path, wanted: SourceFormat) -> Path | None:
    # Any data may have a train.tsv: alone it makes a folder MNLI's only when the user says so.
    signs = MNLI_FILES if wanted is SourceFormat.MNLI else ("dev_matched.tsv",)
    candidates = [source, *(entry for entry in _entries(source) if entry.is_dir())]
    folders = [folder for folder in candidates if any((folder / name).is_file() for name in signs)]
    return folders[0] if len(folders) == 1 or source in folders else None


def _mnli(source: Path, folder: Path) -> Found:
    found = Found()
    for entry in _entries(folder):
        name = entry.relative_to(source).as_posix()
        if entry.name in MNLI_FILES:
            found.files.append(SourceFile(entry, name, SourceFormat.MNLI, split=MNLI_FILES[entry.name]))
        elif entry.is_file() and looks_like_data(entry):
            found.skipped.append(name)
    return found


def _folder(source: Path, wanted: SourceFormat) -> Found:
    found = Found()
    for entry in _entries(source):
        if entry.is_dir():
            for inner in _entries(entry):
                # A folder called "train" holds the train files of several domains.
                split = SPLIT_NAMES.get(entry.name.casefold())
                if inner.is_file():
                    _add(found, source, inner, wanted, domain=None if split else entry.name, split=split)
                elif any(path.suffix.lower() in FORMATS for path in inner.rglob("*")):
                    found.skipped.append(f"{inner.relative_to(source).as_posix()}/ (too deep)")
        else:
            domain = source.resolve().name if entry.suffix.lower() == amazon.SUFFIX else None
            _add(found, source, entry, wanted, domain=domain, split=None)
    return found


def _add(
    found: Found, source: Path, path: Path, wanted: SourceFormat, *, domain: str | None, split: str | None
) -> None:
    name = path.relative_to(source).as_posix()
    kind = FORMATS.get(path.suffix.lower())
    if wanted is SourceFormat.JSONL and path.suffix.lower() == ".json":
        kind = SourceFormat.JSONL
    if kind is SourceFormat.AMAZON and path.stem not in amazon.LABELS:
        return
    if kind is None or wanted not in (SourceFormat.AUTO, kind):
        if looks_like_data(path):
            found.skipped.append(name)
        return
    stem, named_split = _split_of(path.stem)
    if kind is SourceFormat.AMAZON:
        stem, named_split = "", None
    found.files.append(SourceFile(path, name, kind, domain=domain or stem or None, split=named_split or split))


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
    return not _COMPANIONS.match(path.name) and path.suffix.lower() not in _NO_DATA_SUFFIXES


def _nothing(source: Path, wanted: SourceFormat, skipped: list[str]) -> str:
    if wanted is SourceFormat.MNLI:
        return f"{source}: no train.tsv or dev_matched.tsv in it"
    kind = "data" if wanted is SourceFormat.AUTO else f"{wanted} data"
    others = f"; not read: {', '.join(skipped[:5])}" if skipped else ""
    return (
        f"{source}: no {kind} in this folder; expected a CSV, TSV, JSONL or Parquet file a domain, a folder a domain, "
        f"or train/dev/test files{others}"
    )
