"""Which column is which: named by the user, or found by the usual names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from hrkd_cli.errors import DataError
from hrkd_cli.options import option_name

# In order of preference; compared without case, spaces around and "-" for "_".
USUAL = {
    "text": (
        "text", "sentence", "sentence1", "premise", "text1", "text_a", "sentence_a", "review", "review_text",
        "reviewtext", "review_body", "content", "body", "comment", "message", "document", "utterance", "tweet",
        "query", "question", "question1",
    ),
    "text_pair": (
        "text_pair", "textpair", "sentence2", "hypothesis", "text2", "text_b", "sentence_b", "question2",
    ),
    "label": (
        "label", "labels", "gold_label", "sentiment", "class", "target", "category", "intent", "polarity", "stance",
        "label_text",
    ),
    "domain": ("domain", "genre", "category", "product_category", "topic", "product_type"),
    "split": ("split",),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Column names that the user gave; None means "look for the usual ones"."""

    text: str | None = None
    text_pair: str | None = None
    label: str | None = None
    domain: str | None = None
    split: str | None = None

    def named(self) -> dict[str, str]:
        """Return what was named."""
        pairs = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in pairs if value is not None}


@dataclass(frozen=True, slots=True)
class Places:
    """Column numbers; None where there is no such column."""

    text: int
    text_pair: int | None
    label: int | None
    domain: int | None
    split: int | None


def find_columns(
    columns: Sequence[str],
    named: Columns,
    *,
    where: str,
    defaults: Columns | None = None,
    file_domain: bool = False,
    needs_label: bool = True,
) -> Places:
    """Find text, second text, label, domain and split among a table's columns.

    Args:
        columns: the table's column names.
        named: what the user named.
        where: the file, for messages.
        defaults: what the format itself names.
        file_domain: whether the file's own name already stands for a domain; then only a column called exactly
            "domain" (or a named one) overrules it.
        needs_label: whether a table without labels is an error.

    Raises:
        DataError: a named column is not there, or a needed one is not found.
    """
    found = _resolve(columns, named, defaults or Columns(), where, file_domain=file_domain)
    if found["text"] is None:
        raise DataError(_missing("text", columns, where))
    if found["domain"] is None and not file_domain:
        raise DataError(_missing("domain", columns, where) + ", or give a folder with one file per domain")
    if found["label"] is None and needs_label:
        raise DataError(_missing("label", columns, where))
    return Places(found["text"], found["text_pair"], found["label"], found["domain"], found["split"])


def _resolve(
    columns: Sequence[str], named: Columns, defaults: Columns, where: str, *, file_domain: bool
) -> dict[str, int | None]:
    found: dict[str, int | None] = {
        role: _named(wanted, role, columns, where) for role, wanted in named.named().items()
    }
    have = [_plain(name) for name in columns]
    # Domain before label, so that a "category" beside a "sentiment" is a domain; no column is found for two roles.
    for role in ("text", "text_pair", "split", "domain", "label"):
        if role in found:
            continue
        given = getattr(defaults, role)
        if given is not None and given in columns:
            found[role] = columns.index(given)
        else:
            usual = ("domain",) if role == "domain" and file_domain else USUAL[role]
            places = (have.index(name) for name in usual if name in have)
            found[role] = next((place for place in places if place not in found.values()), None)
    return found


def _plain(name: str) -> str:
    return name.strip().casefold().replace("-", "_").replace(" ", "_")


def _named(wanted: str, role: str, columns: Sequence[str], where: str) -> int:
    matches = [i for i, name in enumerate(columns) if name == wanted]
    matches = matches or [i for i, name in enumerate(columns) if _plain(name) == _plain(wanted)]
    if not matches:
        raise DataError(f"{where}: no column {wanted!r} ({option_name(role)}); columns: {_listed(columns)}")
    if len(matches) > 1:
        raise DataError(f"{where}: {len(matches)} columns are called {wanted!r}; rename all but one")
    return matches[0]


def _missing(role: str, columns: Sequence[str], where: str) -> str:
    return f"{where}: no {role} column found (columns: {_listed(columns)}); name it with {option_name(role)}"


def _listed(columns: Sequence[str], limit: int = 30) -> str:
    shown = [name if len(name) <= 40 else name[:37] + "..." for name in map(_one_line, columns[:limit])]
    return ", ".join(shown) + (", ..." if len(columns) > limit else "")


def _one_line(name: str) -> str:
    return " ".join(name.split()) or repr(name)
