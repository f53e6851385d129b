"""Blitzer's multi-domain sentiment data: ``.review`` files that look like XML and are not.

There is no root element, ampersands are bare and texts hold control characters, so no XML parser reads them. What does
hold is that ``<review>``, each tag and each end tag have a line of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from hrkd_cli.data.sources.records import Columns, Piece, Row, Survey, Table, piecewise
from hrkd_cli.data.sources.textfile import BLOCK, check_not_empty, piece_text, plain_read_errors, split_lines
from hrkd_cli.errors import DataError

SUFFIX = ".review"
# The file name is the label. unlabeled.review lies beside these two and is left alone.
LABELS = ("negative", "positive")
_END = b"</review>"


def read_amazon(path: Path, survey: Survey) -> Table:
    """Read a ``.review`` file; a tag is a column, and only the review's text is used unless another is named.

    Args:
        path: the file.
        survey: runs ``survey_amazon`` over the parts of the file.
    """
    check_not_empty(path)
    pieces = partial(_cut_reviews, path)
    found = list(survey(pieces()))
    if not any(reviews for reviews, *_ in found):
        raise DataError(f"{path}: no <review> in it; is this a .review file of Blitzer's data?")
    columns = list(dict.fromkeys(tag for _, *tags in found for tag in tags))
    return piecewise(columns, pieces, amazon_rows, defaults=Columns(text="review_text"), label=path.stem)


def survey_amazon(piece: Piece) -> list[int | str]:
    """Return the number of a part's reviews, then its tags in the order in which they are first seen."""
    reviews = [review for _, review in _reviews(piece)]
    return [len(reviews), *dict.fromkeys(tag for review in reviews for tag in review)]


def amazon_rows(piece: Piece, columns: Sequence[str], wanted: Sequence[int]) -> Iterator[Row]:
    """Read reviews."""
    names = [columns[i] for i in wanted]
    for line, review in _reviews(piece):
        yield line, [review.get(name) for name in names]


def _cut_reviews(path: Path, size: int | None = None) -> Iterator[Piece]:
    start, line = 0, 1
    with plain_read_errors(path), path.open("rb") as file:
        while block := file.read(size or BLOCK):
            # The line that the block ends in is completed unseen: only a whole line can be an end tag.
            more = [block, file.readline()]
            while rest := file.readline():
                more.append(rest)
                if rest.strip() == _END:
                    break
            block = b"".join(more)
            yield Piece(str(path), "amazon", start, start + len(block), line, len(block))
            start += len(block)
            line += block.count(b"\n")


def _reviews(piece: Piece) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line of ``<review>``, text by tag)."""
    path = piece.path
    start = 0
    review: dict[str, str] = {}
    tag, parts = "", [""]
    for number, line in enumerate(split_lines(piece_text(piece)), start=piece.line):
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
