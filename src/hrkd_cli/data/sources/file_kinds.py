"""Files that are not read, recognized by their first bytes: what they are, and the command that converts them."""

from __future__ import annotations

import shlex
from pathlib import Path

from hrkd_cli.errors import DataError

_PANDAS = 'python -c "import pandas, sys; pandas.{}.to_{}" {{path}} {{stem}}.{}'
_FEATHER = _PANDAS.format("read_feather(sys.argv[1])", "parquet(sys.argv[2])", "parquet")
_EXCEL = "pip install openpyxl && " + _PANDAS.format(
    "read_excel(sys.argv[1], dtype=str, keep_default_na=False)", "csv(sys.argv[2], index=False)", "csv"
)
_UNPACK = "python -m {module} -e {path} {stem}_unpacked && hrkd prepare {stem}_unpacked"
_PICKLE = ("a Python pickle", "save it as CSV where it was made, for example with DataFrame.to_csv")
_WEB_PAGE = ("a web page, not the data", "download the raw file")
# By first bytes. An Excel workbook is a zip archive with a file of that name.
_KINDS: dict[bytes, tuple[str, str]] = {
    b"version https://git-lfs": ("a Git LFS pointer, not the data", "git lfs pull"),
    b"PK\x03\x04": ("a zip archive", _UNPACK.replace("{module}", "zipfile")),
    b"PAR1": ("Parquet", "cp {path} {stem}.parquet"),
    b"ARROW1": ("Feather (Arrow)", _FEATHER),
    b"\xd0\xcf\x11\xe0": ("an old Excel workbook", "soffice --headless --convert-to csv {path}"),
    b"\x80\x04\x95": _PICKLE,
    b"\x80\x05\x95": _PICKLE,
    b"BZh": ("bzip2", "bzip2 -dk {path}"),
    b"\xfd7zXZ": ("xz", "xz -dk {path}"),
    b"<!DOCTYPE html": _WEB_PAGE,
    b"<html": _WEB_PAGE,
}
_SUFFIXES = {
    (".tar", ".tgz", ".tar.gz", ".tar.zst"): ("a tar archive", _UNPACK.replace("{module}", "tarfile")),
    (".yml", ".yaml"): ("YAML, perhaps Rasa's", "rasa data convert nlu -f json --data {path} --out {stem}.json"),
}


def check_kind(path: Path, head: bytes, expected: bytes = b"") -> None:
    """Check that a file, given its first bytes, is not of a kind that cannot be read; ``expected`` is allowed.

    Raises:
        DataError: it is; the message says what it is and how to convert it.
    """
    kinds = [kind for magic, kind in _KINDS.items() if magic != expected and head.startswith(magic)]
    kinds += [kind for suffixes, kind in _SUFFIXES.items() if path.name.endswith(suffixes)]
    if not kinds:
        return
    name, remedy = kinds[0]
    if head.startswith(b"PK") and b"[Content_Types].xml" in head:
        name, remedy = "an Excel workbook", _EXCEL
    stem = shlex.quote(path.name.split(".")[0])
    command = remedy.format(path=shlex.quote(str(path)), stem=stem)
    raise DataError(f"{path}: {name}; to convert it: {command}")
