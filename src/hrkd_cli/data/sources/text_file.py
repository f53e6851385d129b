"""Text files of any encoding, plain or compressed, as a stream of decoded text."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from hrkd_cli.errors import DataError

COMPRESSED = frozenset({".gz", ".zst"})
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_BLANK = b"".join(mark for mark, _ in _MARKS) + b"\0 \t\r\n\v\f"


def split_name(path: Path) -> tuple[str, str]:
    """Return a file's name without the suffixes of format and compression, and that of the format in lower case.

    ``books.test.csv.gz`` gives ``books.test`` and ``.csv``.
    """
    plain = Path(path.stem) if path.suffix.lower() in COMPRESSED else path
    return plain.stem, plain.suffix.lower()


@dataclass(frozen=True, slots=True)
class TextFile:
    """A text file.

    Attributes:
        path: where it is; ``.gz`` and ``.zst`` files are decompressed while they are read.
        encoding: its encoding; None takes a byte order mark's, else UTF-8.
    """

    path: Path
    encoding: str | None = None

    @contextmanager
    def open(self, newline: str = "\n") -> Iterator[IO[str]]:
        """Open the file; lines end as ``newline`` says (see ``open``).

        Raises:
            DataError: it cannot be read or decoded.
        """
        with self.open_bytes() as raw:
            stream = io.TextIOWrapper(raw, encoding=self._find_encoding(raw.peek(4096)[:4096]), newline=newline)
            try:
                yield stream
            except UnicodeDecodeError as error:
                raise DataError(self._not_decodable(error)) from None

    def lines(self) -> Iterator[tuple[int, str]]:
        """Yield (number, line). Lines end at newlines alone: texts hold U+0085 and the like."""
        with self.open() as stream:
            for number, line in enumerate(stream, start=1):
                yield number, line.removesuffix("\n").removesuffix("\r")

    def check_not_empty(self) -> None:
        """Raise a DataError where the file holds nothing but white space."""
        with self.open_bytes() as raw:
            while block := raw.read(4096):
                if block.strip(_BLANK):
                    return
        raise DataError(f"{self.path}: the file is empty")

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
        suffix = self.path.suffix.lower()
        if suffix == ".zst":
            import pyarrow as pa

            return io.BufferedReader(pa.input_stream(str(self.path), compression="zstd"))
        return gzip.open(self.path) if suffix == ".gz" else self.path.open("rb")

    def _find_encoding(self, start: bytes) -> str:
        marked = next((name for mark, name in _MARKS if start.startswith(mark)), None)
        if self.encoding is None and marked is None and b"\0" in start:
            raise DataError(
                f"{self.path}: holds NUL bytes, as UTF-16 without a byte order mark does; if it is that, name it with "
                "hrkd prepare --encoding utf-16-le"
            )
        return self.encoding or marked or "utf-8"

    def _not_decodable(self, error: UnicodeDecodeError) -> str:
        if self.encoding is not None or not error.encoding.startswith("utf-8"):
            return f"{self.path}: not {self.encoding or error.encoding} ({error.reason}); name another with --encoding"
        with self.open_bytes() as raw:
            for number, line in enumerate(raw, start=1):
                try:
                    line.decode("utf-8")
                except UnicodeDecodeError as found:
                    return (
                        f"{self.path}:{number}: not UTF-8 (byte 0x{line[found.start]:02x}); name its encoding, for "
                        "example hrkd prepare --encoding cp1252, or convert it, as with iconv -f cp1252 -t utf-8"
                    )
        return f"{self.path}: not UTF-8"
