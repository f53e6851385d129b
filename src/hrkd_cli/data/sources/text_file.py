"""Text files in any encoding, plain or compressed."""

from __future__ import annotations

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from hrkd_cli.errors import DataError

COMPRESSION_SUFFIXES = frozenset({".gz", ".zst"})
_BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_HEAD_SIZE = 1 << 16
# Common encodings, by names that iconv knows too. Only a reader of the text can tell which of them is right.
_ENCODINGS = {
    "cp1252": "Western European",
    "cp1250": "Central European",
    "cp1251": "Russian",
    "cp932": "Japanese",
    "gb18030": "Chinese",
    "macintosh": "old Mac",
}
# Control characters and private ones, which text has only if it was decoded wrongly.
_NOT_TEXT = re.compile("[\x80-\x9f\ue000-\uf8ff]")
_BLANK_BYTES = b"".join(_BYTE_ORDER_MARKS) + b"\0 \t\r\n\v\f"


def split_suffix(path: Path) -> tuple[str, str]:
    """Return a file's stem, and the suffix of its format in lower case; the suffix of a compression is ignored.

    ``books.test.csv.gz`` gives ``books.test`` and ``.csv``.
    """
    decompressed = Path(path.stem) if path.suffix.lower() in COMPRESSION_SUFFIXES else path
    return decompressed.stem, decompressed.suffix.lower()


@dataclass(frozen=True, slots=True)
class TextFile:
    """A text file.

    Attributes:
        path: its path; ``.gz`` and ``.zst`` files are decompressed while they are read.
        encoding: its encoding, unless it has a byte order mark; None means UTF-8.
        has_header: whether the first line has column names (CSV and TSV).
    """

    path: Path
    encoding: str | None = None
    has_header: bool = True

    @contextmanager
    def open(self, newline: str = "\n") -> Iterator[IO[str]]:
        """Open the file; ``newline`` is that of the built-in ``open``.

        Raises:
            DataError: it cannot be read or decoded.
        """
        with self.open_bytes() as raw:
            stream = io.TextIOWrapper(raw, encoding=self._detect_encoding(raw.peek(4096)[:4096]), newline=newline)
            try:
                yield stream
            except UnicodeDecodeError as error:
                raise DataError(self._decoding_error(error)) from None

    def lines(self) -> Iterator[tuple[int, str]]:
        """Yield (number, line). Lines end only at newlines: texts may contain U+0085 and the like."""
        with self.open() as stream:
            for number, line in enumerate(stream, start=1):
                yield number, line.removesuffix("\n").removesuffix("\r")

    def check_not_empty(self) -> None:
        """Raise a DataError if the head of the file contains only white space."""
        if not self.head().strip(_BLANK_BYTES):
            raise DataError(f"{self.path}: the file is empty")

    def head(self) -> bytes:
        """Return the first 64 KiB, decompressed."""
        with self.open_bytes() as raw:
            return bytes(raw.read(_HEAD_SIZE))

    def head_lines(self) -> list[str]:
        """Return the whole lines of the head, decoded by the byte order mark or as UTF-8, with ``\ufffd`` if wrong."""
        head = self.head()
        encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if head.startswith(mark)), "utf-8")
        lines = head.decode(encoding, errors="replace").split("\n")
        return [line.removesuffix("\r") for line in (lines if len(head) < _HEAD_SIZE else lines[:-1])]

    @contextmanager
    def open_bytes(self) -> Iterator[Any]:
        """Open the file as decompressed bytes.

        Raises:
            DataError: it cannot be read.
        """
        try:
            with self._open_decompressed() as raw:
                yield raw
        except (OSError, EOFError, zlib.error) as error:
            reason = getattr(error, "strerror", None) or error
            raise DataError(f"{self.path}: cannot be read: {reason}") from None

    def _open_decompressed(self) -> Any:
        # By content: a browser or a download tool may have decompressed a .gz file, or lost the suffix.
        with self.path.open("rb") as raw:
            magic = raw.read(4)
        if magic == b"\x28\xb5\x2f\xfd":
            import pyarrow as pa

            return io.BufferedReader(pa.input_stream(str(self.path), compression="zstd"))
        return gzip.open(self.path) if magic.startswith(b"\x1f\x8b") else self.path.open("rb")

    def _detect_encoding(self, head: bytes) -> str:
        marked = next((name for mark, name in _BYTE_ORDER_MARKS.items() if head.startswith(mark)), None)
        if self.encoding is None and marked is None and b"\0" in head:
            encoding = "utf-16-be" if head.startswith(b"\0") else "utf-16-le"
            raise DataError(
                f"{self.path}: contains NUL bytes, like UTF-16 without a byte order mark; if that is its encoding, "
                f"name it, as in hrkd prepare --encoding {encoding}, or convert the file to UTF-8; if not, remove them "
                "with tr -d '\\000' < FILE > NEW"
            )
        return marked or self.encoding or "utf-8"  # a byte order mark is never text

    def _decoding_error(self, error: UnicodeDecodeError) -> str:
        """Return a message with the first line that is not UTF-8, and encodings in which the file can be decoded."""
        if self.encoding is not None:
            return f"{self.path}: not {self.encoding} ({error.reason}); name another with --encoding"
        if not error.encoding.startswith("utf-8"):
            return f"{self.path}: not {error.encoding}, unlike its byte order mark ({error.reason}); save it as UTF-8"
        where, encodings = f"{self.path}: not UTF-8", list(_ENCODINGS)
        with self.open_bytes() as raw:
            for number, line in enumerate(raw, start=1):
                if line.isascii():
                    continue
                encodings = [name for name in encodings if _is_text(line, name)]
                try:
                    line.decode("utf-8")
                except UnicodeDecodeError as line_error:
                    if where.endswith("not UTF-8"):
                        where = f"{self.path}:{number}: not UTF-8 (byte 0x{line[line_error.start]:02x})"
        examples = ", ".join(f"{name} ({_ENCODINGS[name]})" for name in encodings)
        examples = f": {examples} or another" if examples else ""
        # Only prepare has --encoding, and texts to label or without labels cannot be prepared.
        return (
            f"{where}; name the encoding of labeled data with hrkd prepare --encoding NAME, or convert the file with "
            f"iconv -f NAME -t utf-8 FILE > NEW; NAME depends on the file's language and program{examples}"
        )


def _is_text(line: bytes, encoding: str) -> bool:
    try:
        return not _NOT_TEXT.search(line.decode(encoding))
    except UnicodeDecodeError:
        return False
