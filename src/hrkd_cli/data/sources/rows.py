"""From a table's values to rows that can be used: the rules are the same for every format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from hrkd_cli.data.sources.columns import Places
from hrkd_cli.data.sources.records import Columns, Reason, Row, Table
from hrkd_cli.data.sources.values import UnusableError, as_name, as_split, as_text

Usable = tuple[int, str, str | None, str, str, str | None]
"""Line, text, second text, label, domain, split."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the values of a table's rows mean.

    Attributes:
        roles: role of each value that is read.
        wanted: its column number.
        domain: the domain that the file stands for, if any.
        split: the split that the file stands for, if any.
        split_named: whether the user named the split column, which then overrules the file.
        label: the label of the whole file, if any.
        no_label: the label that means "none", if any.
    """

    roles: tuple[str, ...]
    wanted: tuple[int, ...]
    domain: str | None
    split: str | None
    split_named: bool
    label: str | None
    no_label: str | None


def make_rules(table: Table, places: Places, named: Columns, *, domain: str | None, split: str | None) -> Rules:
    """Return the rules of a table.

    Args:
        table: the table.
        places: where its columns are.
        named: the columns that the user named.
        domain: the domain that the file stands for, if any.
        split: the split that the file stands for, if any.
    """
    label = table.label if named.label is None else None
    found = {
        role: place
        for role in ("text", "text_pair", "label", "domain", "split")
        if (place := getattr(places, role)) is not None and not (role == "label" and label is not None)
    }
    # In SNLI's and MNLI's files a gold label of "-" means that the annotators did not agree.
    is_gold = places.label is not None and table.columns[places.label].strip().casefold() == "gold_label"
    return Rules(
        roles=tuple(found),
        wanted=tuple(found.values()),
        domain=domain,
        split=split,
        split_named=named.split is not None,
        label=label,
        no_label="-" if is_gold else None,
    )


def usable_rows(rows: Iterable[Row], rules: Rules, drop: Callable[[Reason, str | None, int], None]) -> Iterator[Usable]:
    """Yield the rows that can be used, and tell ``drop`` of the others: reason, domain where it is known, line."""
    place = {role: i for i, role in enumerate(rules.roles)}
    text_at, pair_at = place["text"], place.get("text_pair")
    label_at, domain_at = place.get("label"), place.get("domain")
    # A column that only happens to be called "split" does not overrule the file's name; a named one does.
    split_at = place.get("split") if rules.split is None or rules.split_named else None
    label_names, domain_names = _Names(Reason.NO_LABEL), _Names(Reason.NO_DOMAIN)
    for line, values in rows:
        domain, split, pair = rules.domain, rules.split, None
        try:
            if values is None:
                raise UnusableError(Reason.FIELDS)
            if domain_at is not None:
                domain = None
                domain = domain_names.of(values[domain_at])
            assert domain is not None  # find_columns refuses a table without a domain from anywhere
            if split_at is not None:
                split = as_split(values[split_at])
            text = as_text(values[text_at], Reason.NO_TEXT)
            if pair_at is not None:
                pair = as_text(values[pair_at], Reason.NO_PAIR)
            label = rules.label
            if label is None:
                assert label_at is not None  # nor one without a label
                label = label_names.of(values[label_at])
            if label == rules.no_label:
                raise UnusableError(Reason.NO_LABEL)
        except UnusableError as problem:
            drop(problem.reason, domain, line)
            continue
        yield line, text, pair, label, domain, split


class _Names(dict[str, str]):
    """``as_name`` that works out each string once: a file has few names and many rows."""

    def __init__(self, missing: Reason) -> None:
        super().__init__()
        self._missing = missing

    def __missing__(self, value: str) -> str:
        name = self[value] = as_name(value, self._missing)
        return name

    def of(self, value: object) -> str:
        """Return the name of any value."""
        return self[value] if type(value) is str else as_name(value, self._missing)
