"""Blitzer's multi-domain sentiment data: ``.review`` files, which look like XML but are not.

They have no root element, unescaped ampersands and control characters, so no XML parser reads them. But ``<review>``
and each start and end tag are on a line of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from hrkd_cli.data.sources.row_reader import RowReader, make_object_reader
from hrkd_cli.data.sources.text_file import TextFile, split_suffix
from hrkd_cli.errors import DataError

# The file name is the label. unlabeled.review, in the same folder, has none and is not read.
LABELS = ("negative", "positive")


def open_reviews(file: TextFile) -> RowReader:
    """Open a ``.review`` file: each tag is a column, and the file's name is the column ``label``."""
    reader = make_object_reader(partial(_iter_reviews, file))
    if not reader.columns:
        raise DataError(f"{file.path}: no <review> in it; is this a .review file of Blitzer's data?")
    return reader


def _iter_reviews(file: TextFile) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number of ``<review>``, text by tag)."""
    start = 0  # line of the open <review>; 0 outside of reviews
    review: dict[str, str] = {}
    tag = ""  # the open tag
    content: list[str] = []
    for number, line in file.lines():
        stripped = line.strip()
        if tag:
            if stripped == f"</{tag}>":
                # Some files repeat a tag within a review; only the first has content.
                review.setdefault(tag, "\n".join(content).strip())
                tag = ""
            elif stripped in ("<review>", "</review>"):
                raise DataError(
                    f"{file.path}:{number}: {stripped} inside <{tag}>; the review of line {start} is broken"
                )
            else:
                content.append(line)
        elif stripped == "<review>" and not start:
            start, review = number, {}
        elif stripped == "</review>" and start:
            yield start, {**review, "label": split_suffix(file.path)[0]}
            start = 0
        elif start and _is_start_tag(stripped):
            tag, content = stripped[1:-1], []
        elif stripped:
            raise DataError(f"{file.path}:{number}: expected a tag on a line of its own, found {stripped[:40]!r}")
    if start:
        raise DataError(f"{file.path}:{start}: this <review> has no </review>")


def _is_start_tag(line: str) -> bool:
    return line.startswith("<") and line.endswith(">") and not line.startswith("</") and line != "<review>"
