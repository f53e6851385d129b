"""The registry of file formats, looked up by suffix or by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hrkd_cli.choices import SourceFormat
from hrkd_cli.data.sources import amazon, arrow, delimited, json_objects
from hrkd_cli.data.sources.columns import COLUMN_ALIASES, normalize_name
from hrkd_cli.data.sources.file_kinds import check_kind
from hrkd_cli.data.sources.row_reader import RowReader, check_open_options, make_reader
from hrkd_cli.data.sources.text_file import TextFile, split_suffix
from hrkd_cli.errors import DataError

_SNIFFED_LINES = 20
_FASTTEXT_PREFIX = "__label__"


@dataclass(frozen=True, slots=True)
class FileFormat:
    """A file format.

    Attributes:
        open_file: opens a file.
        suffixes: suffixes of such files.
        standalone_suffixes: suffixes of files that are read only if the file itself is the source: in a folder, such a
            file is usually not data but about the data.
        name: name for ``--format``, if any.
        magic: first bytes of such a file, if it is binary.
    """

    open_file: Callable[[TextFile], RowReader]
    suffixes: tuple[str, ...] = ()
    standalone_suffixes: tuple[str, ...] = ()
    name: SourceFormat | None = None
    magic: bytes = b""

    def open(self, path: Path, encoding: str | None = None, has_header: bool = True) -> RowReader:
        """Open a file; ``encoding`` None means that of the byte order mark, else UTF-8.

        ``has_header``: whether its first line has the column names; if not, the columns are called 1, 2 and so on.

        Raises:
            DataError: it cannot be read or parsed, or is empty.
        """
        is_table = self.name in (SourceFormat.CSV, SourceFormat.TSV)
        check_open_options(path, encoding if self.magic else None, has_header or is_table)
        file = TextFile(path, encoding, has_header)
        file.check_not_empty()
        check_kind(path, file.head(), self.magic)
        return self.open_file(file)


def _open_plain_text(file: TextFile) -> RowReader:
    """Open a file with one text per line; blank lines are skipped."""
    return make_reader(["text"], lambda: ((number, [line]) for number, line in file.lines() if line.strip()))


def _open_fasttext(file: TextFile) -> RowReader:
    """Open a fastText file; the label of a line with several is a list."""

    def iter_rows() -> Iterator[tuple[int, Sequence[object]]]:
        for number, line in file.lines():
            words = line.split(" ")
            labels = [word.removeprefix(_FASTTEXT_PREFIX) for word in words if word.startswith(_FASTTEXT_PREFIX)]
            text = " ".join(word for word in words if not word.startswith(_FASTTEXT_PREFIX))
            if line.strip():
                yield number, (text, labels[0] if len(labels) == 1 else labels or None)

    return make_reader(["text", "label"], iter_rows)


PLAIN_TEXT = FileFormat(_open_plain_text, (".txt", ""))  # texts without labels
FASTTEXT = FileFormat(_open_fasttext)
FORMATS = (
    FileFormat(delimited.open_csv, (".csv",), name=SourceFormat.CSV),
    FileFormat(delimited.open_tsv, (".tsv",), (".tab",), SourceFormat.TSV),
    FileFormat(json_objects.open_json, (".jsonl", ".ndjson"), (".json",), SourceFormat.JSONL),
    FileFormat(arrow.open_parquet, (".parquet",), (".pq",), SourceFormat.PARQUET, b"PAR1"),
    FileFormat(amazon.open_reviews, (".review",), name=SourceFormat.AMAZON),
    FileFormat(delimited.open_mnli, name=SourceFormat.MNLI),
    PLAIN_TEXT,
)


def get_format(name: SourceFormat) -> FileFormat:
    """Return the format with this name."""
    return next(entry for entry in FORMATS if entry.name is name)


def detect_format(path: Path, *, standalone: bool = True, require_label: bool = True) -> FileFormat | None:
    """Return the format for a file's suffix (ignoring ``.gz`` and ``.zst``), or None.

    ``standalone``: the file itself is the source, not the folder it is in.
    """
    _, suffix = split_suffix(path)
    for entry in FORMATS:
        if suffix in entry.suffixes or (standalone and suffix in entry.standalone_suffixes):
            return None if require_label and entry is PLAIN_TEXT else entry
    return None


def sniff_format(path: Path) -> FileFormat | None:
    """Return the format of a file whose suffix does not tell it, by its content: ``.json`` in a folder, ``.txt``.

    Tables in ``.txt`` files have as many tabs in each line, or a header with usual names of text and label.
    """
    file, (_, suffix) = TextFile(path), split_suffix(path)
    try:
        if suffix == ".json":
            return get_format(SourceFormat.JSONL) if json_objects.holds_rows(file) else None
        lines = [line for line in file.head_lines()[:_SNIFFED_LINES] if line.strip()]
    except DataError:
        return None
    if lines and lines[0].startswith(_FASTTEXT_PREFIX):
        return FASTTEXT
    if not lines or suffix not in PLAIN_TEXT.suffixes:
        return None
    if delimited.is_tab_separated(lines):
        return get_format(SourceFormat.TSV)
    for delimiter in delimited.DELIMITERS:
        names = {normalize_name(name) for name in lines[0].split(delimiter)}
        if not any(names.isdisjoint(COLUMN_ALIASES[role]) for role in ("text", "label")):
            return get_format(SourceFormat.CSV)
    return None
