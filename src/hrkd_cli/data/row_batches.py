"""Rows of a source as Arrow tables of strings, with cleaned labels, domains and splits."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from hrkd_cli.data.drop_reasons import DropReason
from hrkd_cli.data.sources.columns import COLUMN_ALIASES
from hrkd_cli.data.sources.row_reader import SourceRow
from hrkd_cli.data.sources.values import SPLIT_ALIASES, InvalidTextError, to_text

# Small, because the garbage collector traverses the Python rows of a batch.
_BATCH_ROWS = 512
_MISSING = ("", "nan", "null", "<na>")
_WHOLE_NUMBER = re.compile(r"([+-]?[0-9]+)\.0+")
ANSWER = "answer"  # role of the column in which annotation tools such as Prodigy store the annotator's decision
_REJECTED = frozenset({"reject", "ignore"})
CleanName = Callable[[str], str | None]
UNKNOWN_SPLIT = "?"  # stands for the name of a split that is not train, dev or test


def clean_name(text: str) -> str | None:
    """Return a domain or label without outer spaces and without the ``.0`` of a whole number; None if missing."""
    name = text.strip()
    if name.lower() in _MISSING:
        return None
    number = _WHOLE_NUMBER.fullmatch(name)
    return number[1] if number else name


def make_batches(
    rows: Iterator[SourceRow],
    roles: Sequence[str],
    constants: Mapping[str, str | None],
    clean_label: CleanName = clean_name,
) -> Iterator[Any]:
    """Yield rows as Arrow tables with the columns ``line``, ``drop_reason`` and one per role ("text", "label", ...).

    ``roles`` are those of the values in ``rows``; the other roles have the values in ``constants``, else null. With
    ``ANSWER`` among them, rows that an annotator rejected or ignored have a drop reason. ``clean_label`` returns the
    name of a label, or None.
    """
    import pyarrow as pa

    clean = {"label": clean_label, "domain": clean_name, "split": _clean_split}
    missing_fields = (None,) * len(roles)
    while batch := list(islice(rows, _BATCH_ROWS)):
        columns = list(zip(*(missing_fields if values is None else values for _, values in batch), strict=True))
        reasons = [DropReason.FIELD_COUNT if values is None else None for _, values in batch]
        by_role = dict(zip(roles, columns, strict=True))
        for index, answer in enumerate(by_role.pop(ANSWER, ())):
            if isinstance(answer, str) and answer.strip().lower() in _REJECTED:
                reasons[index] = DropReason.REJECTED
        arrays = {"line": pa.array([line for line, _ in batch], pa.int64())}
        for role, column in by_role.items():
            try:
                arrays[role] = pa.array(column, pa.string())
            except (pa.ArrowException, UnicodeError):  # some values are not strings
                arrays[role] = pa.array(list(_to_texts(column, role, reasons)), pa.string())
            if role in clean:
                encoded = arrays[role].dictionary_encode()
                cleaned = pa.array([clean[role](name) for name in encoded.dictionary.to_pylist()], pa.string())
                arrays[role] = cleaned.take(encoded.indices)
        for role in COLUMN_ALIASES.keys() - arrays.keys():
            arrays[role] = pa.repeat(pa.scalar(constants.get(role), pa.string()), len(batch))
        yield pa.table({**arrays, "drop_reason": pa.array(reasons, pa.string())})


def _to_texts(values: Iterable[object], role: str, reasons: list[DropReason | None]) -> Iterator[str | None]:
    """Yield the values of a column as texts; for those that are not texts, yield None and set the reason."""
    for index, value in enumerate(values):
        try:
            yield to_text(value)
        except InvalidTextError as error:
            is_several = role == "label" and isinstance(value, list | dict)
            reasons[index] = reasons[index] or (DropReason.NOT_ONE_LABEL if is_several else DropReason(str(error)))
            yield None


def _clean_split(text: str) -> str | None:
    name = text.strip().lower()
    return None if name in _MISSING else SPLIT_ALIASES.get(name, UNKNOWN_SPLIT)
