"""Labels that are not what they seem: several labels in one, labels that look equal, and numbers."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal, InvalidOperation

from hrkd_cli.errors import DataError
from hrkd_cli.predict.name_validation import appearance

ONE_LABEL = "hrkd learns exactly one label per text"
_LIST = re.compile(r"[\[{].*,.*[\]}]|\[[\d. ]+\]", re.DOTALL)  # a list as text, such as "['a', 'b']" or "[0 1]"


def check_single_labels(labels: Sequence[str], source: str) -> None:
    """Raise DataError if a label is a list or made of other labels, such as ``a|b`` next to ``a``."""
    several = next(_find_several(set(labels)), None)
    if several is not None:
        raise DataError(
            f"{source}: label {several[:80]!r} looks like several labels; {ONE_LABEL}, so keep one of them, or prepare "
            "a column with one yes-or-no label (--label)"
        )


def group_equal_labels(labels: Iterable[str]) -> list[list[str]]:
    """Return the groups of labels that look equal or are the same number."""
    groups: dict[object, list[str]] = defaultdict(list)
    for label in labels:
        number = _number(label)
        groups[appearance(label) if number is None else number].append(label)
    return [names for names in groups.values() if len(names) > 1]


def are_numbers(labels: Iterable[str]) -> bool:
    """Return whether all labels are numbers."""
    return None not in map(_number, labels)


def _number(label: str) -> Decimal | None:
    try:
        number = Decimal(label)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def _find_several(labels: set[str]) -> Iterator[str]:
    yield from filter(_LIST.fullmatch, sorted(labels))
    for separator in "|;,":
        compounds = {label: [part.strip() for part in label.split(separator)] for label in sorted(labels)}
        firsts = labels | {parts[0] for parts in compounds.values()}
        for label, parts in compounds.items():
            if len(parts) == 1:
                continue
            # A comma may be part of a name, and "a|b" next to "a|c" may be subcategories.
            is_made_of_others = not labels.isdisjoint(parts) or not firsts.isdisjoint(parts[1:])
            if labels.issuperset(parts) or (separator != "," and is_made_of_others):
                yield label
