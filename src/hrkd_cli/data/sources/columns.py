"""A file as a table, and which of its columns is which: named by the user, or found by the usual names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hrkd_cli.data.names import short
from hrkd_cli.errors import DataError
from hrkd_cli.options import option_name

# By role, in the order in which roles are looked for: domain before label, so that a "category" beside a "sentiment" is
# a domain. Names are in order of preference, and compared without case, spaces around and "-" for "_".
USUAL = {
    "text": (
        "text", "sentence", "sentence1", "premise", "text1", "text_a", "sentence_a", "review", "review_text",
        "reviewtext", "review_body", "content", "body", "comment", "message", "document", "utterance", "tweet",
        "query", "question", "question1",
    ),
    "text_pair": (
        "text_pair", "textpair", "sentence2", "hypothesis", "text2", "text_b", "sentence_b", "question2",
    ),
    "split": ("split",),
    "domain": ("domain", "genre", "category", "product_category", "topic", "product_type"),
    "label": (
        "label", "labels", "gold_label", "sentiment", "class", "target", "category", "intent", "polarity", "stance",
        "label_text",
    ),
}  # fmt: skip

Row = tuple[int, Sequence[object] | None]
"""Line, and values of the columns that were asked for; None for a row with the wrong number of fields."""


@dataclass(frozen=True, slots=True)
class Table:
    """A file with columns. Nothing is held: rows are read anew each time.

    Attributes:
        columns: column names, in order.
        rows: given column numbers, yields rows. A row's line is where it starts (its number, from 1, in formats without
            lines).
        note: what the reader decided and the user should know.
    """

    columns: list[str]
    rows: Callable[[Sequence[int]], Iterator[Row]]
    note: str | None = None


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file to read, or a split of what the ``datasets`` library loads.

    Attributes:
        where: what it is called in messages.
        open: gives its table, read in an encoding; None is UTF-8, or what a byte order mark says.
        domain: the domain that file or folder name stands for; None when a column has to say it.
        split: the split that the name stands for, if any.
        path: the file; None where ``datasets`` reads it.
        name: the file's path relative to the source, with ``/``.
    """

    where: str
    open: Callable[[str | None], Table]
    domain: str | None = None
    split: str | None = None
    path: Path | None = None
    name: str = ""


def table_of_objects(objects: Callable[[], Iterator[tuple[int, Mapping[str, object]]]]) -> Table:
    """Return the table of (line, object); a key that an object lacks is a null there."""
    columns = list(dict.fromkeys(key for _, item in objects() for key in item))

    def rows(wanted: Sequence[int]) -> Iterator[Row]:
        names = [columns[i] for i in wanted]
        for line, item in objects():
            yield line, [item.get(name) for name in names]

    return Table(columns, rows)


def find_columns(
    table: Table,
    named: Mapping[str, str] | None,
    *,
    where: str,
    file_domain: bool = False,
    labelled: bool = True,
) -> dict[str, int]:
    """Find text, second text, split, domain and label among a table's columns; no column has two roles.

    Args:
        table: the table.
        named: column names by role that the user gave; None where the user cannot name any.
        where: the file, for messages.
        file_domain: whether the file's own name already stands for a domain; then only a column called exactly
            "domain" (or a named one) overrules it.
        labelled: whether there must be a label; where not, a table's only column is the text.

    Returns:
        Column numbers by role, without roles that no column has.

    Raises:
        DataError: a named column is not there, or a needed one is not found.
    """
    found = {role: _named(name, role, table.columns, where) for role, name in (named or {}).items()}
    if not labelled and len(table.columns) == 1:
        found["text"] = 0
    have = [_plain(name) for name in table.columns]
    for role, names in USUAL.items():
        usual = ("domain",) if role == "domain" and file_domain else names
        places = [have.index(name) for name in usual if name in have]
        free = [place for place in places if place not in found.values()]
        if free:
            found.setdefault(role, free[0])
    needs = {"text": True, "domain": not file_domain, "label": labelled}
    for role, is_needed in needs.items():
        if is_needed and role not in found:
            name_it = "" if named is None else f"; name it with {option_name(role)}"
            per_file = ", or give a folder with one file per domain" if role == "domain" else ""
            listed = _listed(table.columns)
            raise DataError(f"{where}: no {role} column found (columns: {listed}){name_it}{per_file}")
    return found


def _named(wanted: str, role: str, columns: Sequence[str], where: str) -> int:
    matches = [i for i, name in enumerate(columns) if name == wanted]
    matches = matches or [i for i, name in enumerate(columns) if _plain(name) == _plain(wanted)]
    if not matches:
        raise DataError(f"{where}: no column {wanted!r} ({option_name(role)}); columns: {_listed(columns)}")
    if len(matches) > 1:
        raise DataError(f"{where}: {len(matches)} columns are called {wanted!r}; rename all but one")
    return matches[0]


def _plain(name: str) -> str:
    return name.strip().casefold().replace("-", "_").replace(" ", "_")


def _listed(columns: Sequence[str]) -> str:
    one_line = [" ".join(name.split()) or repr(name) for name in columns]
    return short([name if len(name) <= 40 else name[:37] + "..." for name in one_line], 30)
