"""Unlabeled texts for distillation: read, without duplicates and without texts of the dataset."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import Any

from hrkd_cli.data.dataset import Dataset, TextRows, compute_fingerprint
from hrkd_cli.data.row_store import PAIR_HASH, TEXT_HASH, RowStore, open_row_store
from hrkd_cli.data.sources.columns import resolve_columns
from hrkd_cli.data.sources.discover import find_source_files
from hrkd_cli.data.sources.row_reader import SourceFile
from hrkd_cli.data.sources.text_file import split_suffix
from hrkd_cli.errors import DataError
from hrkd_cli.events import Note, OnEvent
from hrkd_cli.formatting import join_names
from hrkd_cli.layout import SPLITS
from hrkd_cli.predict.name_validation import appearance, quote

_SELECT_ROWS = f"""
WITH known AS (
  SELECT split, {TEXT_HASH} AS text_hash, coalesce({PAIR_HASH}, {TEXT_HASH}) AS input_hash FROM dataset),
checked_rows AS (SELECT rowid AS id, domain, text, text_pair, CASE
  WHEN NOT coalesce(list_contains($domains, domain), false) THEN 'other domain'
  WHEN drop_reason IS NOT NULL THEN 'no text'
  WHEN text_hash IN (SELECT text_hash FROM known WHERE split != 'train') THEN 'in the data'
  WHEN input_hash IN (SELECT input_hash FROM known WHERE split = 'train') THEN 'in the data'
  WHEN row_number() OVER (PARTITION BY domain, input_hash ORDER BY rowid) > 1 THEN 'duplicate'
  END AS drop_reason
  FROM rows)
SELECT drop_reason, domain, count(*), list(text ORDER BY id) FILTER (drop_reason IS NULL),
  list(text_pair ORDER BY id) FILTER (drop_reason IS NULL)
FROM checked_rows GROUP BY ALL ORDER BY min(id)
"""


@dataclass(frozen=True, slots=True)
class UnlabeledTexts:
    """Texts without labels.

    Attributes:
        rows: rows without labels by domain; only domains that have some.
        dropped: number of dropped texts by reason.
        fingerprint: sha256 over the texts by domain, in order.
        synthetic: whether they were mixed from train texts (``--augment``).
    """

    rows: dict[str, TextRows]
    dropped: dict[str, int]
    fingerprint: str
    synthetic: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the entry of ``hrkd.json``."""
        by_domain = {domain: len(rows) for domain, rows in self.rows.items()}
        facts = {"texts": by_domain, "dropped": self.dropped, "fingerprint": self.fingerprint}
        return facts | ({"synthetic": True} if self.synthetic else {})

    def describe_dropped(self) -> str:
        """Return the dropped texts as the end of a message; empty if there are none."""
        counts = ", ".join(f"{count:,} x {reason}" for reason, count in self.dropped.items())
        return f"; left out: {counts}" if counts else ""


def read_unlabeled(
    source: str | Path, dataset: Dataset, *, whole: Dataset | None = None, need_all: bool = True, on_event: OnEvent
) -> UnlabeledTexts:
    """Read texts of a dataset's domains from any source of ``hrkd prepare``; labels are not needed.

    Dropped: rows whose first text is in a dev or test split of any domain of the ``whole`` data (by default the
    dataset), rows that are in a train split, and duplicates within a domain. Texts are compared as in ``hrkd prepare``.
    Domains whose names look like one of the dataset's get a warning.

    Raises:
        DataError: the source cannot be read, or has no usable text, or, with ``need_all``, none of a domain without
            rows in the dataset.
    """
    skipped = []
    with open_row_store(str(source), require_label=False) as store:
        for source_file in find_source_files(source, require_label=False, on_event=on_event):
            file = replace(source_file, domain=_find_domain(source_file, dataset))
            by_name = source_file.domain is not None
            reader, name = file.open(None), file.display_name
            columns = resolve_columns(reader.columns, None, file=name, file_names_domain=by_name, require_label=False)
            if file.domain is None and "domain" not in columns:
                skipped.append(file.relative_path)
                continue
            if dataset.has_pairs and "text_pair" not in columns:
                names = join_names(reader.columns, 30)
                raise DataError(f"{name}: no second text found (columns: {names}), and the data has two")
            roles = ("text", "text_pair", "domain") if dataset.has_pairs else ("text", "domain")
            store.add(file, reader, {role: columns[role] for role in roles if role in columns})
        texts, others = _select_new_texts(store, dataset, whole or dataset)
    by_appearance = {appearance(domain): domain for domain in dataset.domains}
    for name in sorted(others.union(*map(_names, skipped))):
        if (domain := by_appearance.get(appearance(name))) is not None:
            text = f"{source}: texts of {quote(name)} are not read; the data spells it {quote(domain)}: rename one"
            on_event(Note(text, warning=True))
    if skipped:
        on_event(Note(f"{source}: not read, because the data has no domain of that name: {join_names(skipped)}"))
    if not texts.rows:
        names = join_names(dataset.domains, 20)
        raise DataError(
            f"--unlabelled {source}: no new text for the domains of the data ({names}){texts.describe_dropped()}"
        )
    for domain in dataset.new_domains if need_all else ():
        if domain not in texts.rows:
            found = f"it has new texts of {join_names(list(texts.rows), 20)}{texts.describe_dropped()}"
            raise DataError(f"--new-domains {domain}: --unlabelled {source} has no new text of it; {found}")
    counts = ", ".join(f"{domain} {len(rows):,}" for domain, rows in texts.rows.items())
    on_event(Note(f"unlabeled texts: {counts}{texts.describe_dropped()}"))
    if without := [domain for domain in dataset.domains if domain not in (*texts.rows, *dataset.new_domains)]:
        on_event(Note(f"unlabeled texts: none for {join_names(without)}, which learn from labeled rows alone"))
    return texts


def _find_domain(file: SourceFile, dataset: Dataset) -> str | None:
    """Return the dataset's domain that a file or its folder is named after, if any."""
    return next((name for name in _names(file.relative_path) if name in dataset.labels), None)


def _names(relative_path: str) -> tuple[str, ...]:
    """Return the possible domains of a file without a domain column."""
    path = Path(relative_path)
    stem, _ = split_suffix(path)
    return stem, stem.rpartition(".")[0], path.parent.name


def _select_new_texts(store: RowStore, dataset: Dataset, whole: Dataset) -> tuple[UnlabeledTexts, set[str]]:
    """Return the texts of a dataset's domains that the whole data does not contain, and the names of other domains."""
    import pyarrow as pa

    parts = [(split, whole.split(domain, split)) for domain in whole.domains for split in SPLITS]
    columns = {
        "split": [split for split, rows in parts for _ in rows.texts],
        "text": [text for _, rows in parts for text in rows.texts],
        "text_pair": [pair for _, rows in parts for pair in rows.pairs or repeat(None, len(rows))],
    }
    store.connection.register("dataset", pa.table(columns, schema=pa.schema([(name, pa.string()) for name in columns])))
    found: dict[str, TextRows] = {}
    others: set[str] = set()
    dropped: Counter[str] = Counter()
    for reason, domain, count, first, second in store.fetch(_SELECT_ROWS, {"domains": list(dataset.domains)}):
        if reason is None:
            found[domain] = TextRows(first, second if store.has_pairs else None, labels=[])
            continue
        dropped[reason] += count
        if reason == "other domain" and domain:
            others.add(domain)
    rows = {domain: found[domain] for domain in dataset.domains if domain in found}
    fingerprint = compute_fingerprint({domain: {"": part} for domain, part in rows.items()})
    return UnlabeledTexts(rows, dict(dropped), fingerprint), others
