"""Discovery: which files a source has, and their format, domain and split, all judged by names.

docs/data.md describes the layouts: a single file, one file or folder per domain, one file or folder per split,
Blitzer's reviews, GLUE's MNLI, a prepared folder, a ``save_to_disk`` folder, and a dataset on the hub.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from hrkd_cli import sample
from hrkd_cli.choices import SourceFormat
from hrkd_cli.data.dataset_folder import is_prepared, list_files, read_manifest
from hrkd_cli.data.sources import amazon, hub_datasets
from hrkd_cli.data.sources.file_kinds import check_kind
from hrkd_cli.data.sources.file_names import check_names, parse_names
from hrkd_cli.data.sources.formats import FORMATS, PLAIN_TEXT, FileFormat, detect_format, get_format, sniff_format
from hrkd_cli.data.sources.row_reader import SourceFile
from hrkd_cli.data.sources.text_file import COMPRESSION_SUFFIXES, TextFile, split_suffix
from hrkd_cli.data.sources.text_folders import find_text_folders
from hrkd_cli.data.sources.values import SPLIT_ALIASES
from hrkd_cli.errors import DataError
from hrkd_cli.events import Note, OnEvent, ignore
from hrkd_cli.formatting import join_names
from hrkd_cli.layout import DATASET_OUT

_MNLI_SPLITS = {"train.tsv": "train", "dev_matched.tsv": "test"}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(:[\w.+-]+)?")
# A mistyped path may end with one of these; a hub id never does.
_DATA_SUFFIXES = {suffix for entry in FORMATS for suffix in entry.suffixes + entry.standalone_suffixes if suffix}
_DATA_SUFFIXES |= COMPRESSION_SUFFIXES | {".xml", ".zip", ".xls", ".xlsx"}
# Files often found next to data that are not data.
_NO_DATA_NAMES = re.compile(
    r"(readme|licen[cs]e|notice|citation|changelog|attribution|copying|makefile|unlabeled\.review)\b", re.IGNORECASE
)
_WRAPPERS = frozenset({"data", "dataset", "datasets", "raw", "default"})
# MNLI's test of other domains, and what Kaggle wants to be sent.
_NOT_READ = re.compile(r"dev_mismatched$|^sample_?submission", re.IGNORECASE)
_NO_DATA_SUFFIXES = frozenset({".md", ".rst", ".py", ".sh", ".ipynb", ".pdf", ".html", ".yml", ".yaml", ".toml"})


def find_source_files(
    source: str | Path,
    wanted: SourceFormat = SourceFormat.AUTO,
    *,
    require_label: bool = True,
    on_event: OnEvent = ignore,
) -> list[SourceFile]:
    """Return the files of a source, in a fixed order.

    ``sample`` is the built-in sample, unless there is a file or folder with that name.

    Args:
        source: a file, a folder or the id of a hub dataset.
        wanted: its format.
        require_label: whether rows must have labels; if not, folders are read to any depth and plain text files have
            one text per line.
        on_event: receives a note about files that look like data and are not read.

    Raises:
        DataError: the source does not exist, or has no data in the wanted format.
    """
    name = str(source)
    path = check_source(name, wanted)
    if path is None or hub_datasets.is_saved_dataset(path):
        return hub_datasets.load_splits(name, on_event)
    if not path.is_dir():
        if not path.is_file():
            raise DataError(f"{name}: not a regular file or folder; save the data to a file first")
        return [_make_single_file(path, wanted, require_label)]
    return _find_folder_files(path, wanted, require_label, name, on_event)


def check_source(source: str, wanted: SourceFormat = SourceFormat.AUTO) -> Path | None:
    """Return the file or folder of a source; None for a hub dataset, which the hub or its cache has.

    Raises:
        DataError: there is no such file, folder or hub dataset.
    """
    path = None if wanted is SourceFormat.HUB else _find_path(source)
    if path is None:
        if Path(source) == DATASET_OUT:
            raise DataError(f"there is no {DATASET_OUT} yet; run hrkd prepare first, or name the data with --data")
        may_be_hub_id = wanted is SourceFormat.HUB or (wanted is SourceFormat.AUTO and looks_like_hub_id(source))
        if not may_be_hub_id:
            raise DataError(f"{source!r}: no such file or folder; check the path (a hub dataset is named owner/name)")
        hub_datasets.check_hub(source)
    return path


def _find_path(source: str) -> Path | None:
    try:
        if source and Path(source).exists():
            return Path(source)
    except (OSError, ValueError):  # too long for a file name, or with a NUL
        return None
    return sample.FOLDER if source == sample.NAME else None


def looks_like_hub_id(source: str) -> bool:
    """Return whether a source without a local path may be a hub id: ``name``, ``owner/name``, ``owner/name:config``.

    A name that ends like a data file, or starts with an existing folder, is a mistyped path.
    """
    if not _HUB_ID.fullmatch(source) or Path(source).suffix.lower() in _DATA_SUFFIXES:
        return False
    return "/" not in source or not Path(source.split("/", maxsplit=1)[0]).is_dir()


def _walk(folder: Path, depth: int = 0) -> Iterator[Path]:
    """Yield all files below a folder, sorted by name; see ``_list_folder``."""
    for entry in _list_folder(folder):
        if not entry.is_dir():
            yield entry
        elif depth < 2 or not entry.is_symlink():  # a link may form a cycle
            yield from _walk(entry, depth + 1)


def _list_folder(folder: Path) -> list[Path]:
    """Return the files and folders in a folder, sorted by name, except names that start with . or __.

    Raises:
        DataError: the folder cannot be read.
    """
    try:
        entries = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror or error}") from None
    return [entry for entry in entries if not entry.name.startswith((".", "__"))]


def _looks_like_data(path: Path) -> bool:
    return not _NO_DATA_NAMES.match(path.name) and split_suffix(path)[1] not in _NO_DATA_SUFFIXES


def _make_single_file(source: Path, wanted: SourceFormat, require_label: bool) -> SourceFile:
    if wanted is SourceFormat.MNLI:
        raise DataError(f"{source}: --format mnli reads the folder that holds train.tsv and dev_matched.tsv")
    file_format: FileFormat | None
    if wanted is SourceFormat.AUTO:
        file_format = detect_format(source, require_label=require_label)
        file_format = file_format or (sniff_format(source) if require_label else PLAIN_TEXT)
    else:
        file_format = get_format(wanted)
    if file_format is None:
        check_kind(source, TextFile(source).head())
        raise DataError(
            f"{source}: unknown kind of file; name its format with hrkd prepare --format csv, tsv, jsonl or parquet"
        )
    domain = source.parent.resolve().name if file_format.name is SourceFormat.AMAZON else None
    return _make_source_file(source.parent, source, file_format, domain, None)


def _find_folder_files(
    source: Path, wanted: SourceFormat, require_label: bool, name: str, on_event: OnEvent
) -> list[SourceFile]:
    skipped: list[str] = []
    if is_prepared(source):
        paths = sorted(list_files(source, read_manifest(source)))
        parquet = get_format(SourceFormat.PARQUET)
        files = [_make_source_file(source, path, parquet, path.parent.name, path.stem) for path in paths]
    else:
        files = _find_raw_files(source, wanted, require_label, skipped)
        if require_label:
            check_names(files, name, on_event)
        # Blitzer's files have a folder's name as domain, even if that folder is the source.
        by_name = not any(file.domain in (None, *Path(file.relative_path).parts[:-1]) for file in files)
        reviews = any(split_suffix(Path(file.relative_path))[1] == ".review" for file in files)
        if by_name and not reviews and len({file.domain for file in files}) == 1:
            files = [replace(file, is_only_domain=True) for file in files]
    if not files and wanted is SourceFormat.MNLI:
        raise DataError(f"{source}: no train.tsv or dev_matched.tsv in it")
    for file_name in skipped if wanted is SourceFormat.AUTO else []:
        if (source / file_name).is_file():
            try:
                check_kind(source / file_name, TextFile(source / file_name).head())
            except DataError as error:
                if not files:
                    raise
                on_event(Note(f"not read: {error}", warning=True))
    if files:
        if skipped:
            on_event(Note(f"{name}: not read: {join_names(skipped)}", warning=True))
        return files
    data = "data" if wanted is SourceFormat.AUTO else f"{wanted} data"
    formats = "CSV, TSV, JSONL or Parquet" if require_label else "CSV, TSV, JSONL, Parquet or .txt"
    not_read = f"; not read: {join_names(skipped)} (hrkd prepare --format may read them)" if skipped else ""
    raise DataError(
        f"{source}: no {data} in this folder; expected one {formats} file per domain, one folder per domain, or "
        f"train/dev/test files{not_read}"
    )


def _find_raw_files(source: Path, wanted: SourceFormat, require_label: bool, skipped: list[str]) -> list[SourceFile]:
    """Return the files to read; add those that look like data and are not read to ``skipped``."""
    mnli = None
    if require_label and wanted in (SourceFormat.AUTO, SourceFormat.MNLI):
        mnli = _find_mnli_folder(source, wanted)
    root = mnli or (_find_root(source) if require_label else source)
    # Those with a suffix of data first: of a.jsonl and a.txt, the first is read.
    paths = sorted(_walk(root), key=lambda path: require_label and detect_format(path, standalone=False) is None)
    stems: set[Path] = set()
    files = []
    for path in paths:
        *folders, _ = path.relative_to(root).parts
        relative_path, stem = path.relative_to(source).as_posix(), path.with_name(split_suffix(path)[0])
        if path.exists() and not path.is_file():
            skipped.append(f"{relative_path} (not a regular file)")
            continue
        file_format = _detect_format_in_folder(path, wanted, require_label, mnli)
        if require_label and file_format is None and stem not in stems and wanted is SourceFormat.AUTO and not mnli:
            file_format = sniff_format(path) if _looks_like_data(path) else None
        if require_label and len(folders) > 1:
            too_deep = f"{path.parent.relative_to(source).as_posix()}/ (too deep)"
            if file_format is not None and too_deep not in skipped:
                skipped.append(too_deep)
        elif file_format is not None and not _NOT_READ.search(stem.name):
            domain, split = _parse_names(path, folders[0] if folders else "", file_format)
            files.append(_make_source_file(source, path, file_format, domain, split))
            stems.add(stem)
        elif _looks_like_data(path):
            skipped.append(relative_path)
    if not files and require_label and wanted is SourceFormat.AUTO:
        files = find_text_folders(source, [path for path in paths if _looks_like_data(path)], skipped)
    return files


def _find_root(source: Path) -> Path:
    """Return the folder that holds the data: below folders that only wrap another one, such as ``data``."""
    while True:
        entries = [path for path in _list_folder(source) if path.is_dir() or _looks_like_data(path)]
        if len(entries) != 1 or not entries[0].is_dir() or entries[0].is_symlink():
            return source
        if entries[0].name.lower() not in _WRAPPERS and not all(path.is_dir() for path in _list_folder(entries[0])):
            return source
        source = entries[0]


def _make_source_file(
    source: Path, path: Path, file_format: FileFormat, domain: str | None, split: str | None
) -> SourceFile:
    relative_path = path.relative_to(source).as_posix()
    return SourceFile(str(path), partial(file_format.open, path), domain, split, path, relative_path)


def _find_mnli_folder(source: Path, wanted: SourceFormat) -> Path | None:
    """Return GLUE's MNLI folder: the source or a folder in it; None if there is none, or several."""
    # Any data may have a train.tsv: on its own it marks an MNLI folder only with --format mnli.
    marker_files = _MNLI_SPLITS if wanted is SourceFormat.MNLI else ("dev_matched.tsv",)
    folders = {path.parent for name in marker_files for path in (*source.glob(name), *source.glob(f"*/{name}"))}
    if source in folders:
        return source
    return folders.pop() if len(folders) == 1 else None


def _detect_format_in_folder(
    path: Path, wanted: SourceFormat, require_label: bool, mnli: Path | None
) -> FileFormat | None:
    """Return the format of a file in a folder; None if the file is not read."""
    if mnli is not None:
        return get_format(SourceFormat.MNLI) if path.parent == mnli and path.name in _MNLI_SPLITS else None
    if wanted in (SourceFormat.CSV, SourceFormat.TSV) and split_suffix(path)[1] in PLAIN_TEXT.suffixes:
        return get_format(wanted) if _looks_like_data(path) else None
    standalone = wanted is SourceFormat.JSONL or not require_label
    file_format = detect_format(path, standalone=standalone, require_label=require_label)
    if file_format is None or wanted not in (SourceFormat.AUTO, file_format.name):
        return None
    if file_format.name is SourceFormat.AMAZON and require_label and split_suffix(path)[0] not in amazon.LABELS:
        return None
    return file_format if file_format is not PLAIN_TEXT or _looks_like_data(path) else None


def _parse_names(path: Path, folder: str, file_format: FileFormat) -> tuple[str | None, str | None]:
    """Return domain and split from the names of a file and its folder: ``books.test`` has both, ``test`` a split."""
    if file_format.name is SourceFormat.MNLI:
        return None, _MNLI_SPLITS[path.name]
    if file_format.name is SourceFormat.AMAZON:
        return path.parent.resolve().name, None
    stem, suffix = split_suffix(path)
    return parse_names(stem + suffix if suffix[1:] in SPLIT_ALIASES else stem, folder)  # cooking.train of fastText
