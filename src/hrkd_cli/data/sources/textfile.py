"""Text files: strict UTF-8, lines that end at a newline and nowhere else."""

from __future__ import annotations

from pathlib import Path

from hrkd_cli.errors import DataError


def read_bytes(path: Path) -> bytes:
    """Return a file's bytes.

    Raises:
        DataError: it cannot be read, or holds nothing.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    if not data or data.isspace():
        raise DataError(f"{path}: the file is empty")
    return data


def read_text(path: Path) -> str:
    """Return a file's text, without a byte order mark.

    Raises:
        DataError: it cannot be read, holds nothing, or is not UTF-8.
    """
    data = read_bytes(path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The codec counts from behind the byte order mark.
        start = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        line = data.count(b"\n", 0, start) + 1
        raise DataError(
            f"{path}:{line}: not UTF-8 (byte 0x{data[start]:02x}); convert the file, for example with iconv -t utf-8"
        ) from None


def split_lines(text: str) -> list[str]:
    """Split at newlines only. ``str.splitlines`` would also cut at U+0085 and others, which occur inside texts."""
    lines = text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]
