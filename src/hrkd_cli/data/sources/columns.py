"""Which column of a file is the text, label, domain and so on: named by the user, or recognized by common names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hrkd_cli.errors import DataError, UsageError
from hrkd_cli.formatting import join_names
from hrkd_cli.options import option_name

# By role, in the order of the search: domain before label, so that a "category" next to a "sentiment" is a domain.
# Names are in order of preference. Case and outer spaces are ignored, and "-" and " " are equal to "_".
COLUMN_ALIASES = {
    "text": (
        "text", "sentence", "sentence1", "premise", "text1", "text_a", "sentence_a", "review", "review_text",
        "reviewtext", "review_body", "content", "body", "comment", "message", "document", "utterance", "tweet",
        "query", "question", "question1", "comment_text", "utt", "summary",
    ),
    "text_pair": (
        "text_pair", "textpair", "sentence2", "hypothesis", "text2", "text_b", "sentence_b", "question2",
    ),
    "split": ("split", "partition"),
    "domain": ("domain", "genre", "category", "product_category", "topic", "product_type"),
    "label": (
        "label", "labels", "gold_label", "sentiment", "class", "target", "category", "intent", "polarity", "stance",
        "label_text", "rating", "star_rating", "stars", "overall",
    ),
}  # fmt: skip


class MissingLabelError(DataError):
    """A file has no label column."""


def resolve_columns(
    columns: Sequence[str],
    named: Mapping[str, str] | None,
    *,
    file: str,
    file_names_domain: bool = False,
    prefer_domain_column: bool = False,
    require_label: bool = True,
) -> dict[str, int]:
    """Find the columns of text, second text, split, domain and label; no column has two roles.

    Args:
        columns: the file's column names.
        named: column names by role, as named by the user; None if the user cannot name any.
        file: name of the file in messages.
        file_names_domain: whether the file's name gives the domain; then only a column called exactly "domain" (or
            one named by the user) overrides it.
        prefer_domain_column: whether any domain column overrides the file's name.
        require_label: whether there must be a label; if not, the only column of a file is the text.

    Returns:
        Column indices by role, without roles that no column has.

    Raises:
        DataError: a named column does not exist, or a required one is not found; MissingLabelError if the label is not.
        UsageError: the user named one column for two roles.
    """
    indices = {role: _find_named(name, role, columns, file) for role, name in (named or {}).items()}
    for role, index in indices.items():
        first = next(other for other, taken in indices.items() if taken == index)
        if first != role:
            names = f"{option_name(first)} and {option_name(role)}"
            raise UsageError(f"{names} are the same column, {columns[index]!r}; name two columns")
    if not require_label and len(columns) == 1:
        indices["text"] = 0
    normalized = [normalize_name(name) for name in columns]
    for role, aliases in COLUMN_ALIASES.items():
        if role == "domain" and file_names_domain and not prefer_domain_column:
            aliases = ("domain",)
        matches = [normalized.index(alias) for alias in aliases if alias in normalized]
        unused = [index for index in matches if index not in indices.values()]
        if unused and role not in indices:
            indices[role] = unused[0]
            if (count := normalized.count(normalized[unused[0]])) > 1:
                raise DataError(f"{file}: {count} columns are called {columns[unused[0]]!r}; rename all but one")
    domain = indices.get("domain") if require_label and "domain" not in (named or {}) else None
    if "label" not in indices and domain is not None and normalized[domain] in COLUMN_ALIASES["label"]:
        indices["label"] = indices.pop("domain")  # "category" is the domain only next to a label
    required = {"text": True, "domain": not file_names_domain, "label": require_label}
    missing = [role for role, is_required in required.items() if is_required and role not in indices]
    if missing:
        role, error = missing[0], MissingLabelError if "label" in missing else DataError
        command = "hrkd prepare " if require_label else ""  # teach and distill have no such options
        hint = "" if named is None else f"; name it with {command}{option_name(role)}"
        hint = _remedy(role, columns, hint, require_label)
        raise error(f"{file}: no {role} column found (columns: {_join_columns(columns)}){hint}")
    return indices


def _remedy(role: str, columns: Sequence[str], hint: str, require_label: bool) -> str:
    """Return what to do about a missing column; ``hint`` says how to name it, if that is possible."""
    if role == "domain":
        one = ", make all rows one domain with hrkd prepare --one-domain NAME" if hint else ""
        return f"{hint}{one}, or give a folder with one file per domain"
    if require_label and any(map(_is_value, columns)):
        text = max(range(len(columns)), key=lambda index: len(columns[index])) + 1
        hint += f"; if the file has no header: hrkd prepare --no-header --text {text} --label N (N: its number)"
    return hint


def _find_named(wanted: str, role: str, columns: Sequence[str], file: str) -> int:
    matches = [index for index, name in enumerate(columns) if name == wanted]
    matches = matches or [index for index, name in enumerate(columns) if normalize_name(name) == normalize_name(wanted)]
    if not matches:
        raise DataError(f"{file}: no column {wanted!r} ({option_name(role)}); columns: {_join_columns(columns)}")
    if len(matches) > 1:
        raise DataError(f"{file}: {len(matches)} columns are called {wanted!r}; rename all but one")
    return matches[0]


def _is_value(name: str) -> bool:
    """Return whether a column name looks like a value: a number or a text."""
    return name.strip().replace(".", "", 1).isdecimal() or len(name.split()) > 4


def normalize_name(name: str) -> str:
    """Return a column name in the form in which names are compared."""
    return name.strip().casefold().replace("-", "_").replace(" ", "_")


def _join_columns(columns: Sequence[str]) -> str:
    """Return column names for a message: on one line and abbreviated."""
    names = [" ".join(name.split()) or repr(name) for name in columns]
    return join_names([name if len(name) <= 40 else name[:37] + "..." for name in names], 30)
