"""Blitzer's multi-domain sentiment data: ``.review`` files that look like XML and are not.

There is no root element, ampersands are bare and texts hold control characters, so no XML parser reads them. What does
hold is that ``<review>``, each tag and each end tag have a line of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from hrkd_cli.data.sources.columns import Table, table_of_objects
from hrkd_cli.data.sources.text_file import TextFile, split_name
from hrkd_cli.errors import DataError

# The file name is the label. unlabeled.review lies beside these two and is left alone.
LABELS = ("negative", "positive")


def open_reviews(file: TextFile) -> Table:
    """Open a ``.review`` file: a tag is a column, and the file's name is the column ``label``."""
    table = table_of_objects(partial(_reviews, file))
    if not table.columns:
        raise DataError(f"{file.path}: no <review> in it; is this a .review file of Blitzer's data?")
    return table


def _reviews(file: TextFile) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line of ``<review>``, text by tag)."""
    start = 0
    review: dict[str, str] = {}
    tag, parts = "", [""]
    for number, line in file.lines():
        bare = line.strip()
        if tag:
            if bare == f"</{tag}>":
                # Some files have a tag twice in a review; the first is the one filled in.
                review.setdefault(tag, "\n".join(parts).strip())
                tag = ""
            elif bare in ("<review>", "</review>"):
                raise DataError(f"{file.path}:{number}: {bare} inside <{tag}>; the review of line {start} is broken")
            else:
                parts.append(line)
        elif bare == "<review>" and not start:
            start, review = number, {}
        elif bare == "</review>" and start:
            yield start, {**review, "label": split_name(file.path)[0]}
            start = 0
        elif start and bare.startswith("<") and bare.endswith(">") and not bare.startswith("</") and bare != "<review>":
            tag, parts = bare[1:-1], []
        elif bare:
            raise DataError(f"{file.path}:{number}: expected a tag on a line of its own, found {bare[:40]!r}")
    if start:
        raise DataError(f"{file.path}:{start}: this <review> has no </review>")
