"""Blitzer's multi-domain sentiment data: ``.review`` files that look like XML and are not.

There is no root element, ampersands are bare and texts hold control characters, so no XML parser reads them. What does
hold is that ``<review>``, each tag and each end tag have a line of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from hrkd_cli.data.sources.records import Columns, Row, Table
from hrkd_cli.data.sources.textfile import read_text, split_lines
from hrkd_cli.errors import DataError

SUFFIX = ".review"
# The file name is the label. unlabeled.review lies beside these two and is left alone.
LABELS = ("negative", "positive")


def read_amazon(path: Path) -> Table:
    """Read a ``.review`` file; a tag is a column, and only the review's text is used unless another is named."""
    reviews = list(_reviews(path))
    if not reviews:
        raise DataError(f"{path}: no <review> in it; is this a .review file of Blitzer's data?")
    columns = list(dict.fromkeys(tag for _, review in reviews for tag in review))

    def rows(wanted: Sequence[int]) -> Iterator[Row]:
        for line, review in reviews:
            yield line, [review.get(columns[i]) for i in wanted]

    return Table(columns, rows, defaults=Columns(text="review_text"), label=path.stem)


def _reviews(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line of ``<review>``, text by tag)."""
    start = 0
    review: dict[str, str] = {}
    tag, parts = "", [""]
    for number, line in enumerate(split_lines(read_text(path)), start=1):
        bare = line.strip()
        if tag:
            if bare == f"</{tag}>":
                # Some files have a tag twice in a review; the first is the one filled in.
                review.setdefault(tag, "\n".join(parts).strip())
                tag = ""
            elif bare in ("<review>", "</review>"):
                raise DataError(f"{path}:{number}: {bare} inside <{tag}>; the review of line {start} is broken")
            else:
                parts.append(line)
        elif bare == "<review>" and not start:
            start, review = number, {}
        elif bare == "</review>" and start:
            yield start, review
            start = 0
        elif start and bare.startswith("<") and bare.endswith(">") and not bare.startswith("</") and bare != "<review>":
            tag, parts = bare[1:-1], []
        elif bare:
            raise DataError(f"{path}:{number}: expected a tag on a line of its own, found {bare[:40]!r}")
    if start:
        raise DataError(f"{path}:{start}: this <review> has no </review>")
