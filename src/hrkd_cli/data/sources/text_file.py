"""Text files of any encoding, plain or compressed, as a stream of decoded text."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from hrkd_cli.errors import DataError

_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def _open_zstd(path: Path) -> Any:
    import pyarrow as pa

    return pa.input_stream(str(path), compression="zstd")


_OPENERS: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".zst": _open_zstd}
COMPRESSED = frozenset(_OPENERS)


def plain_suffix(path: Path) -> str:
    """Return the suffix that tells the format, in lower case: ``.csv`` of ``books.csv.gz``."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in COMPRESSED else suffix


def plain_stem(path: Path) -> str:
    """Return the name without the suffixes of format and compression."""
    return Path(path.stem).stem if path.suffix.lower() in COMPRESSED else path.stem


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
        with self.plain_errors(), self._open_bytes() as raw:
            stream = io.TextIOWrapper(raw, encoding=self.known_encoding(), newline=newline)
            try:
                yield stream
            except UnicodeDecodeError as error:
                raise DataError(self._not_decodable(error)) from None

    def lines(self) -> Iterator[tuple[int, str]]:
        """Yield (number, line). Lines end at newlines alone: texts hold U+0085 and the like."""
        with self.open() as stream:
            for number, line in enumerate(stream, start=1):
                yield number, line.removesuffix("\n").removesuffix("\r")

    def check_not_empty(self) -> str:
        """Return the first line that is not blank.

        Raises:
            DataError: there is none.
        """
        for _, line in self.lines():
            if line.strip():
                return line
        raise DataError(f"{self.path}: the file is empty")

    def known_encoding(self) -> str:
        """Return the encoding: the given one, that of the byte order mark, or UTF-8.

        Raises:
            DataError: the file looks like UTF-16 and has no byte order mark.
        """
        with self.plain_errors(), self._open_bytes() as raw:
            start = raw.read(4096)
        marked = next((name for mark, name in _MARKS if start.startswith(mark)), None)
        if self.encoding is None and marked is None and b"\0" in start:
            raise DataError(
                f"{self.path}: holds NUL bytes, as UTF-16 without a byte order mark does; if it is that, name it with "
                "hrkd prepare --encoding utf-16-le"
            )
        return self.encoding or marked or "utf-8"

    @contextmanager
    def plain_errors(self) -> Iterator[None]:
        """Turn a failure of the file system or of decompression into one plain line."""
        try:
            yield
        except (OSError, EOFError, zlib.error) as error:
            reason = getattr(error, "strerror", None) or error
            raise DataError(f"{self.path}: cannot be read: {reason}") from None

    def _open_bytes(self) -> Any:
        return _OPENERS.get(self.path.suffix.lower(), Path.open)(self.path, *(() if self._compressed else ("rb",)))

    @property
    def _compressed(self) -> bool:
        return self.path.suffix.lower() in COMPRESSED

    def _not_decodable(self, error: UnicodeDecodeError) -> str:
        if self.encoding is not None or not error.encoding.startswith("utf-8"):
            return f"{self.path}: not {self.encoding or error.encoding} ({error.reason}); name another with --encoding"
        with self._open_bytes() as raw:
            for number, line in enumerate(raw, start=1):
                try:
                    line.decode("utf-8")
                except UnicodeDecodeError as found:
                    return (
                        f"{self.path}:{number}: not UTF-8 (byte 0x{line[found.start]:02x}); name its encoding, for "
                        "example hrkd prepare --encoding cp1252, or convert it, as with iconv -f cp1252 -t utf-8"
                    )
        return f"{self.path}: not UTF-8"
