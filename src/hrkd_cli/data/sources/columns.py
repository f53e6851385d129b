"""A file as a table, and which of its columns is which: named by the user, or found by the usual names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

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
        defaults: columns by role that the format's own rules give, tried before the usual names.
        label: label of the whole file, in formats that give it by file name.
        note: what the reader decided and the user should know.
    """

    columns: list[str]
    rows: Callable[[Sequence[int]], Iterator[Row]]
    defaults: Mapping[str, str] = field(default_factory=dict)
    label: str | None = None
    note: str | None = None


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
        if table.defaults.get(role) in table.columns:
            free = [table.columns.index(table.defaults[role])]
        if free:
            found.setdefault(role, free[0])
    needs = {"text": True, "domain": not file_domain, "label": labelled and table.label is None}
    for role in needs:
        if needs[role] and role not in found:
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


def _listed(columns: Sequence[str], limit: int = 30) -> str:
    one_line = [" ".join(name.split()) or repr(name) for name in columns[:limit]]
    shown = [name if len(name) <= 40 else name[:37] + "..." for name in one_line]
    return ", ".join(shown) + (", ..." if len(columns) > limit else "")
