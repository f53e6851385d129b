"""Texts without labels to learn from: read, freed of duplicates and of texts that the data holds out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hrkd_cli.data.dataset import Dataset, Rows, fingerprint_of
from hrkd_cli.data.ingest import KEY, WHOLE_KEY, RowStore, open_store
from hrkd_cli.data.names import short
from hrkd_cli.data.sources.columns import find_columns
from hrkd_cli.data.sources.discover import looks_like_data, source_file, walk
from hrkd_cli.data.sources.formats import LINES, Format, format_of
from hrkd_cli.data.sources.text_file import split_name
from hrkd_cli.errors import DataError
from hrkd_cli.events import Note, OnEvent
from hrkd_cli.layout import SPLITS
from hrkd_cli.settings import DistillSettings

IN_DATA, DUPLICATE, NO_TEXT, OTHER_DOMAIN = "in the data", "duplicate", "no text", "other domain"
"""Why a text is left out."""

_HELD_OUT = "SELECT md5_number(normalised({})) AS key FROM data WHERE split != 'train'"
_TRAIN_ROWS = "CREATE TABLE train_rows AS SELECT {} AS whole FROM data WHERE split = 'train' AND {}"
_JUDGED = f"""
SELECT domain, text, text_pair, CASE
  WHEN NOT coalesce(list_contains($domains, domain), false) THEN '{OTHER_DOMAIN}'
  WHEN reason IS NOT NULL THEN '{NO_TEXT}'
  WHEN key IN (SELECT key FROM held_out) OR whole IN (SELECT whole FROM train_rows) THEN '{IN_DATA}'
  WHEN row_number() OVER (PARTITION BY domain, whole ORDER BY rowid) > 1 THEN '{DUPLICATE}' END AS reason
FROM rows ORDER BY rowid
"""


@dataclass(frozen=True, slots=True)
class BareTexts:
    """Texts without labels.

    Attributes:
        rows: texts by domain, without labels; only domains that have some. General texts are all under ``""``.
        dropped: number of texts that were left out, by reason.
        fingerprint: sha256 over the texts that are left, by domain and in order.
    """

    rows: dict[str, Rows]
    dropped: dict[str, int]
    fingerprint: str

    @property
    def count(self) -> int:
        """Number of texts."""
        return sum(len(rows) for rows in self.rows.values())

    def to_json(self) -> dict[str, Any]:
        """Return what ``hrkd.json`` records of them."""
        by_domain = {domain: len(rows) for domain, rows in self.rows.items() if domain}
        return {"texts": by_domain or self.count, "dropped": dict(self.dropped), "fingerprint": self.fingerprint}


@dataclass(frozen=True, slots=True)
class MoreTexts:
    """What a distillation learns from beside the labelled rows; None where it does not.

    Attributes:
        unlabelled: texts of the data's domains.
        general: texts of any kind.
    """

    unlabelled: BareTexts | None = None
    general: BareTexts | None = None

    @classmethod
    def read(cls, settings: DistillSettings, dataset: Dataset, on_event: OnEvent) -> MoreTexts:
        """Read what the settings ask for.

        Raises:
            DataError: it cannot be read, or nothing in it can be used.
        """
        own, general = settings.unlabelled, settings.general
        return cls(
            None if own is None else read_unlabelled(Path(own), dataset, on_event=on_event),
            None if general is None else read_general(Path(general), dataset, on_event=on_event),
        )

    def fingerprints(self) -> dict[str, str]:
        """Return what tells these texts from others."""
        return {name: texts.fingerprint for name, texts in self._named()}

    def to_json(self, **more: Mapping[str, Any]) -> dict[str, Any]:
        """Return what ``hrkd.json`` records of them; ``more`` is added to what is said of the texts of that name."""
        return {name: {**texts.to_json(), **more.get(name, {})} for name, texts in self._named()}

    def _named(self) -> list[tuple[str, BareTexts]]:
        both = (("unlabelled", self.unlabelled), ("general", self.general))
        return [(name, texts) for name, texts in both if texts is not None]


def read_unlabelled(source: Path, dataset: Dataset, *, on_event: OnEvent) -> BareTexts:
    """Read unlabelled texts of a dataset's domains.

    Left out: texts whose first text is one of the dev or test split of any domain, rows that the train split has, and
    of equal rows of a domain all but the first. Texts are equal as ``hrkd prepare`` has it.

    Args:
        source: a folder with one file or one folder per domain, or a file with a domain column.
        dataset: the labelled data.
        on_event: told what was read and what was left out.

    Raises:
        DataError: it cannot be read, or nothing in it can be used.
    """
    skipped = []
    with open_store(str(source), labelled=False) as store:
        for path, kind in _files(source, on_event):
            in_folder = path != source
            file = source_file(source, path, kind, _domain_of(path, source, dataset) if in_folder else None)
            if in_folder and file.domain is None and kind is LINES:
                skipped.append(file.name)
                continue
            table = file.open(None)
            places = find_columns(table, None, where=file.where, file_domain=in_folder, labelled=False)
            if file.domain is None and "domain" not in places:
                skipped.append(file.name)
                continue
            if dataset.pair and "text_pair" not in places:
                columns = short(table.columns, 30)
                raise DataError(f"{path}: no second text found (columns: {columns}), and the data has two")
            used = ("text", "text_pair", "domain") if dataset.pair else ("text", "domain")
            store.add(file, table, {role: places[role] for role in used if role in places})
        found = _kept(store, dataset, dataset.domains)
    if skipped:
        on_event(Note(f"{source}: not read, no domain of the data is called so: {short(skipped)}"))
    if not found.rows:
        why = f" ({_listed(found)})" if found.dropped else ""
        names = short(list(dataset.domains), 20)
        raise DataError(f"--unlabelled {source}: no text of a domain of the data in it{why}; the domains are {names}")
    counts = ", ".join(f"{domain} {len(part):,}" for domain, part in found.rows.items())
    on_event(Note(f"unlabelled texts: {counts}{_left_out(found)}"))
    if without := [domain for domain in dataset.domains if domain not in found.rows]:
        on_event(Note(f"unlabelled texts: none for {short(without)}, which learn from labelled rows alone"))
    return found


def read_general(source: Path, dataset: Dataset, *, on_event: OnEvent) -> BareTexts:
    """Read texts of any kind; both texts of a row that has two are texts of their own.

    Left out: texts of the data's dev and test splits, and all but the first of equal texts.

    Args:
        source: a file, or a folder of which all files are read.
        dataset: the labelled data.
        on_event: told what was read and what was left out.

    Raises:
        DataError: it cannot be read, or holds no text.
    """
    with open_store(str(source), labelled=False) as store:
        for path, kind in _files(source, on_event):
            file = source_file(source, path, kind, domain="")
            table = file.open(None)
            places = find_columns(table, None, where=file.where, file_domain=True, labelled=False)
            for role in ("text", "text_pair"):
                if role in places:
                    store.add(file, table, {"text": places[role]})
        found = _kept(store, dataset, ("",), general=True)
    if not found.rows:
        raise DataError(f"--general {source}: no text in it that can be used{_left_out(found)}")
    on_event(Note(f"general texts: {found.count:,}{_left_out(found)}"))
    return found


def _files(source: Path, on_event: OnEvent) -> Iterator[tuple[Path, Format]]:
    """Yield the files to read with their formats, in name order.

    Raises:
        DataError: there are none.
    """
    if not source.exists():
        raise DataError(f"{source}: no such file or folder")
    if not source.is_dir():
        yield source, format_of(source, labelled=False) or LINES
        return
    formats = {path: format_of(path, labelled=False) for path in walk(source) if looks_like_data(path)}
    if not any(formats.values()):
        raise DataError(f"{source}: no CSV, TSV, JSONL, Parquet or .txt file in this folder")
    if others := [path.relative_to(source).as_posix() for path, kind in formats.items() if kind is None]:
        on_event(Note(f"{source}: not read: {short(others)}", warning=True))
    yield from ((path, kind) for path, kind in formats.items() if kind is not None)


def _domain_of(path: Path, source: Path, dataset: Dataset) -> str | None:
    """Return the domain that a file's or its folder's name stands for, if any."""
    stem, _ = split_name(path)
    names = [stem, stem.rpartition(".")[0], path.parent.name if path.parent != source else ""]
    return next((name for name in names if name in dataset.labels), None)


def _kept(store: RowStore, dataset: Dataset, domains: tuple[str, ...], *, general: bool = False) -> BareTexts:
    """Return the texts that are kept.

    Args:
        store: the texts.
        dataset: the labelled data.
        domains: the domains to keep, in the order of the result.
        general: hold out both texts of a row of dev and test, and nothing of train.
    """
    import pyarrow as pa

    parts = [(split, dataset.split(domain, split)) for domain in dataset.domains for split in SPLITS]
    columns = {
        "split": [split for split, part in parts for _ in part.texts],
        "text": [text for _, part in parts for text in part.texts],
        "text_pair": [text for _, part in parts for text in part.pairs or [""] * len(part)],
    }
    store.con.register("data", pa.table(columns, schema=pa.schema([(name, pa.string()) for name in columns])))
    held = " UNION ".join(_HELD_OUT.format(name) for name in (("text", "text_pair") if general else ("text",)))
    store.con.execute(f"CREATE TABLE held_out AS {held}")
    store.con.execute(_TRAIN_ROWS.format(WHOLE_KEY if dataset.pair else KEY, "false" if general else "true"))
    found: dict[str, Rows] = {}
    dropped: Counter[str] = Counter()
    for domain, text, pair, reason in store.con.execute(_JUDGED, {"domains": list(domains)}).fetchall():
        if reason is not None:
            dropped[reason] += 1
            continue
        rows = found.setdefault(domain, Rows([], [] if store.pair else None, []))
        rows.texts.append(text)
        if rows.pairs is not None:
            rows.pairs.append(pair)
    rows_by_domain = {domain: found[domain] for domain in domains if domain in found}
    return BareTexts(
        rows_by_domain, dict(dropped), fingerprint_of({domain: {"": part} for domain, part in rows_by_domain.items()})
    )


def _left_out(found: BareTexts) -> str:
    return f"; left out: {_listed(found)}" if found.dropped else ""


def _listed(found: BareTexts) -> str:
    return ", ".join(f"{count:,} x {reason}" for reason, count in found.dropped.items())
