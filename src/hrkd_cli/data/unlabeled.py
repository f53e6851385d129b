"""Texts without labels to learn from: read, freed of duplicates and of texts that the data holds out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import Any

from hrkd_cli.data.dataset import Dataset, TextRows, compute_fingerprint
from hrkd_cli.data.ingest import KEY, WHOLE_KEY, RowStore, open_store
from hrkd_cli.data.names import short
from hrkd_cli.data.sources.columns import SourceFile, find_columns
from hrkd_cli.data.sources.discover import find_source
from hrkd_cli.data.sources.text_file import split_name
from hrkd_cli.errors import DataError
from hrkd_cli.events import Note, OnEvent
from hrkd_cli.layout import SPLITS

_JUDGE = f"""
CREATE TABLE judged AS WITH known AS (
  SELECT split, {KEY} AS key, {WHOLE_KEY} AS whole FROM data)
SELECT rowid AS id, domain, text, text_pair, CASE
  WHEN NOT coalesce(list_contains($domains, domain), false) THEN 'other domain'
  WHEN reason IS NOT NULL THEN 'no text'
  WHEN key IN (SELECT key FROM known WHERE split != 'train') THEN 'in the data'
  WHEN whole IN (SELECT coalesce(whole, key) FROM known WHERE split = 'train') THEN 'in the data'
  WHEN row_number() OVER (PARTITION BY domain, whole ORDER BY rowid) > 1 THEN 'duplicate' END AS left_out
FROM rows
"""
_KEPT = """
SELECT domain, list(text ORDER BY id), list(text_pair ORDER BY id) FROM judged WHERE left_out IS NULL GROUP BY domain
"""
_LEFT_OUT = "SELECT left_out, count(*) FROM judged WHERE left_out IS NOT NULL GROUP BY left_out ORDER BY min(id)"


@dataclass(frozen=True, slots=True)
class UnlabeledTexts:
    """Texts without labels.

    Attributes:
        rows: texts by domain, without labels; only domains that have some.
        dropped: number of texts that were left out, by reason.
        fingerprint: sha256 over the texts that are left, by domain and in order.
    """

    rows: dict[str, TextRows]
    dropped: dict[str, int]
    fingerprint: str

    def to_json(self) -> dict[str, Any]:
        """Return what ``hrkd.json`` records of them."""
        by_domain = {domain: len(rows) for domain, rows in self.rows.items()}
        return {"texts": by_domain, "dropped": self.dropped, "fingerprint": self.fingerprint}

    def left_out(self) -> str:
        """Return the end of a message: what was left out, if anything."""
        counts = ", ".join(f"{count:,} x {reason}" for reason, count in self.dropped.items())
        return f"; left out: {counts}" if counts else ""


def read_unlabeled(source: str | Path, dataset: Dataset, *, on_event: OnEvent) -> UnlabeledTexts:
    """Read texts of a dataset's domains from any source of ``hrkd prepare``; labels are not needed.

    Left out: texts whose first text is one of the dev or test split of any domain, rows that the train split has, and
    of equal rows of a domain all but the first. Texts are equal as ``hrkd prepare`` has it.

    Raises:
        DataError: it cannot be read, or nothing in it can be used.
    """
    skipped = []
    with open_store(str(source), labelled=False) as store:
        for found in find_source(source, labelled=False, on_event=on_event):
            file = replace(found, domain=_domain_of(found, dataset))
            table = file.open(None)
            by_name = found.domain is not None
            places = find_columns(table, None, where=file.where, file_domain=by_name, labelled=False)
            if file.domain is None and "domain" not in places:
                skipped.append(file.name)
                continue
            if dataset.has_pairs and "text_pair" not in places:
                columns = short(table.columns, 30)
                raise DataError(f"{file.where}: no second text found (columns: {columns}), and the data has two")
            used = ("text", "text_pair", "domain") if dataset.has_pairs else ("text", "domain")
            store.add(file, table, {role: places[role] for role in used if role in places})
        texts = _keep_new(store, dataset)
    if skipped:
        on_event(Note(f"{source}: not read, no domain of the data is called so: {short(skipped)}"))
    if not texts.rows:
        names = short(dataset.domains, 20)
        raise DataError(f"--unlabelled {source}: no new text of a domain of the data ({names}) in it{texts.left_out()}")
    counts = ", ".join(f"{domain} {len(part):,}" for domain, part in texts.rows.items())
    on_event(Note(f"unlabeled texts: {counts}{texts.left_out()}"))
    if without := [domain for domain in dataset.domains if domain not in texts.rows]:
        on_event(Note(f"unlabeled texts: none for {short(without)}, which learn from labeled rows alone"))
    return texts


def _domain_of(file: SourceFile, dataset: Dataset) -> str | None:
    """Return the domain that a file's or its folder's name stands for, if any."""
    path = Path(file.name)
    stem, _ = split_name(path)
    return next((name for name in (stem, stem.rpartition(".")[0], path.parent.name) if name in dataset.labels), None)


def _keep_new(store: RowStore, dataset: Dataset) -> UnlabeledTexts:
    """Return the texts of a dataset's domains that the dataset does not have."""
    import pyarrow as pa

    parts = [(split, dataset.split(domain, split)) for domain in dataset.domains for split in SPLITS]
    columns = {
        "split": [split for split, part in parts for _ in part.texts],
        "text": [text for _, part in parts for text in part.texts],
        "text_pair": [text for _, part in parts for text in part.pairs or repeat(None, len(part))],
    }
    store.con.register("data", pa.table(columns, schema=pa.schema([(name, pa.string()) for name in columns])))
    store.con.execute(_JUDGE, {"domains": list(dataset.domains)})
    kept = {domain: (texts, pairs) for domain, texts, pairs in store.con.execute(_KEPT).fetchall()}
    rows = {d: TextRows(kept[d][0], kept[d][1] if store.pair else None, []) for d in dataset.domains if d in kept}
    fingerprint = compute_fingerprint({domain: {"": part} for domain, part in rows.items()})
    return UnlabeledTexts(rows, dict(store.con.execute(_LEFT_OUT).fetchall()), fingerprint)
