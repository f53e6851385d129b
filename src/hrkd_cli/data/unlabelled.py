"""Texts without labels to learn from: read, freed of duplicates and of texts that the data holds out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

from hrkd_cli.data.dataset import Dataset, Rows, fingerprint_lines
from hrkd_cli.data.sources.columns import Places, find_columns
from hrkd_cli.data.sources.discover import ALONE, FORMATS, looks_like_data
from hrkd_cli.data.sources.pieces import open_table
from hrkd_cli.data.sources.records import Columns, Reason, Table
from hrkd_cli.data.sources.tally import short
from hrkd_cli.data.sources.textfile import read_text, split_lines
from hrkd_cli.data.sources.values import UnusableError, as_name, as_text
from hrkd_cli.data.splitting import normalise
from hrkd_cli.errors import DataError
from hrkd_cli.events import Note, OnEvent
from hrkd_cli.settings import DistillSettings

_TABLES = {**FORMATS, **ALONE}
_LINES = (".txt", "")  # in a folder; a file that is the source itself may be called anything
IN_DATA, DUPLICATE, NO_TEXT, OTHER_DOMAIN = "in the data", "duplicate", "no text", "other domain"
"""Why a text is left out."""

_Row = tuple[str | None, str | None, str | None]
"""Domain where the row names one, text (None: it has none), second text."""


@dataclass(frozen=True, slots=True)
class BareTexts:
    """Texts without labels.

    Attributes:
        path: where they were read.
        rows: texts by domain, without labels; only domains that have some. General texts are all under ``""``.
        dropped: texts that were left out, by reason.
        fingerprint: sha256 over the texts that are left, by domain and in order.
    """

    path: Path
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
        return {
            "texts": by_domain or self.count,
            "dropped": dict(self.dropped),
            "fingerprint": self.fingerprint,
        }


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
        source: a folder with a file or a folder a domain, or a file with a domain column.
        dataset: the labelled data.
        on_event: told what was read and what was left out.

    Raises:
        DataError: it cannot be read, or nothing in it can be used.
    """
    held, seen = _held_out(dataset, second=False), _train_rows(dataset)
    found = _Found(dataset.pair)
    skipped = []
    for path in _files(source, on_event):
        domain = _domain_of(path, source, dataset)
        rows = _domain_rows(path, domain, whole=not source.is_dir(), pair=dataset.pair)
        if rows is None:
            skipped.append(path.relative_to(source).as_posix())
            continue
        for named, text, second in rows:
            of = named or domain
            if of is None or of not in dataset.labels:
                found.drop(OTHER_DOMAIN)
            elif text is not None and (_key(text) in held or _key(text, second) in seen):
                found.drop(IN_DATA)
            else:
                found.add(of, text, second)
    if skipped:
        on_event(Note(f"{source}: not read, no domain of the data is called so: {short(skipped)}"))
    if not found.texts:
        why = f" ({_listed(found.dropped)})" if found.dropped else ""
        names = short(list(dataset.domains), 20)
        raise DataError(f"--unlabelled {source}: no text of a domain of the data in it{why}; the domains are {names}")
    bare = found.result(source, [domain for domain in dataset.domains if domain in found.texts])
    counts = ", ".join(f"{domain} {len(rows):,}" for domain, rows in bare.rows.items())
    on_event(Note(f"unlabelled texts: {counts}{_left_out(bare.dropped)}"))
    if without := [domain for domain in dataset.domains if domain not in bare.rows]:
        on_event(Note(f"unlabelled texts: none for {short(without)}, which learn from labelled rows alone"))
    return bare


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
    held = _held_out(dataset, second=True)
    found = _Found(pair=False)
    for path in _files(source, on_event):
        for _, text, second in _rows(path, pair=None):
            for one in (text, second) if second is not None else (text,):
                if one is not None and _key(one) in held:
                    found.drop(IN_DATA)
                else:
                    found.add("", one, None)
    if not found.texts:
        raise DataError(f"--general {source}: no text in it that can be used{_left_out(found.dropped)}")
    bare = found.result(source, [""])
    on_event(Note(f"general texts: {bare.count:,}{_left_out(bare.dropped)}"))
    return bare


class _Found:
    """Collects the texts that are kept, and counts the others."""

    def __init__(self, pair: bool) -> None:
        self.texts: dict[str, tuple[list[str], list[str]]] = {}
        self.dropped: dict[str, int] = {}
        self._pair = pair
        self._seen: set[tuple[str, bytes]] = set()

    def add(self, domain: str, text: str | None, second: str | None) -> None:
        """Keep a row unless it has no text or was there before."""
        if text is None:
            return self.drop(NO_TEXT)
        key = (domain, _key(text, second))
        if key in self._seen:
            return self.drop(DUPLICATE)
        self._seen.add(key)
        texts, seconds = self.texts.setdefault(domain, ([], []))
        texts.append(text)
        if second is not None:
            seconds.append(second)
        return None

    def drop(self, reason: str) -> None:
        """Count a row that is left out."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    def result(self, path: Path, domains: list[str]) -> BareTexts:
        """Return the texts of these domains, in this order."""
        rows, digest = {}, hashlib.sha256()
        for domain in domains:
            texts, seconds = self.texts[domain]
            rows[domain] = Rows(texts, seconds if self._pair else None, [])
            for line in fingerprint_lines(domain, "", texts, rows[domain].pairs, [""] * len(texts)):
                digest.update(line)
        return BareTexts(path, rows, self.dropped, digest.hexdigest())


def _domain_of(path: Path, source: Path, dataset: Dataset) -> str | None:
    """Return the domain that a file's or its folder's name stands for, if any."""
    names = [path.stem, path.stem.rpartition(".")[0], path.parent.name if path.parent != source else ""]
    return next((name for name in names if name in dataset.labels), None)


def _files(source: Path, on_event: OnEvent) -> list[Path]:
    """Return the files to read, in name order.

    Raises:
        DataError: there are none.
    """
    if not source.exists():
        raise DataError(f"{source}: no such file or folder")
    if not source.is_dir():
        return [source]
    hidden = (".", "__")
    paths = [
        path
        for path in sorted(source.rglob("*"))
        if path.is_file()
        and looks_like_data(path)
        and not any(part.startswith(hidden) for part in path.relative_to(source).parts)
    ]
    files = [path for path in paths if path.suffix.lower() in (*_TABLES, *_LINES)]
    if not files:
        raise DataError(f"{source}: no CSV, TSV, JSONL, Parquet or .txt file in this folder")
    if others := [path.relative_to(source).as_posix() for path in paths if path not in files]:
        on_event(Note(f"{source}: not read: {short(others)}", warning=True))
    return files


def _domain_rows(path: Path, domain: str | None, *, whole: bool, pair: bool) -> Iterable[_Row] | None:
    """Return a file's rows; None where neither its name nor a column says a domain.

    Raises:
        DataError: it is the whole source and has no domain column, or cannot be read.
    """
    kind = _TABLES.get(path.suffix.lower())
    if not whole and domain is None and kind is None:
        return None
    if not whole and domain is None:
        assert kind is not None
        table = open_table(path, kind)
        if _places(path, table, domain=False).domain is None:
            return None
    return _rows(path, pair=pair, domain=whole)


def _rows(path: Path, *, pair: bool | None, domain: bool = False) -> Iterator[_Row]:
    """Yield a file's rows.

    Args:
        path: a table, or any other file: a text a line.
        pair: whether a row must have a second text; None takes it where there is one.
        domain: whether a row must name its domain.

    Raises:
        DataError: a column is missing, or the file cannot be read.
    """
    kind = _TABLES.get(path.suffix.lower())
    if kind is None:
        if domain or pair:
            what = "domain" if domain else "second text"
            raise DataError(f"{path}: lines of text have no {what}; give a CSV, TSV, JSONL or Parquet file")
        yield from ((None, line, None) for line in split_lines(read_text(path)) if line.strip())
        return
    table = open_table(path, kind)
    places = _places(path, table, domain=domain)
    if pair and places.text_pair is None:
        raise DataError(f"{path}: no second text found (columns: {short(table.columns, 30)}), and the data has two")
    second = None if pair is False else places.text_pair
    wanted = [place for place in (places.text, second, places.domain) if place is not None]
    for _, values in table.rows(wanted):
        yield _row(values, second=second is not None, must=pair is True, domain=places.domain is not None)


def _row(values: Any, *, second: bool, must: bool, domain: bool) -> _Row:
    """Read the values of one row; where texts of any kind are read, it need not have a second one."""
    try:
        if values is None:
            raise UnusableError(Reason.FIELDS)
        named = as_name(values[-1], Reason.NO_DOMAIN) if domain else None
        text = as_text(values[0], Reason.NO_TEXT)
        has = second and (must or values[1] not in (None, ""))
        pair = as_text(values[1], Reason.NO_PAIR) if has else None
        return named, text, pair
    except UnusableError:
        return None, None, None


def _places(path: Path, table: Table, *, domain: bool) -> Places:
    """Find the columns.

    Raises:
        DataError: there is no text, or no domain where there must be one.
    """
    named = Columns(text=table.columns[0]) if len(table.columns) == 1 else Columns()
    try:
        return find_columns(
            table.columns,
            named,
            where=str(path),
            defaults=table.defaults,
            file_domain=not domain,
            needs_label=False,
        )
    except DataError:
        wanted = "text and domain, or a folder with a file a domain" if domain else "text"
        raise DataError(f"{path}: columns {short(table.columns, 30)}; expected {wanted}") from None


def _held_out(dataset: Dataset, *, second: bool) -> set[bytes]:
    """Return the keys of the first texts (with ``second`` of both) of all dev and test splits."""
    held = set()
    for domain in dataset.domains:
        for split in ("dev", "test"):
            rows = dataset.split(domain, split)
            held |= {_key(text) for text in rows.texts}
            held |= {_key(text) for text in (rows.pairs or ()) if second}
    return held


def _train_rows(dataset: Dataset) -> set[bytes]:
    """Return the keys of all train rows: of a pair both texts, since a first text may well come with another second."""
    seen = set()
    for domain in dataset.domains:
        rows = dataset.split(domain, "train")
        seconds: Iterable[str | None] = repeat(None) if rows.pairs is None else rows.pairs
        seen |= {_key(*both) for both in zip(rows.texts, seconds, strict=False)}
    return seen


def _key(text: str, second: str | None = None) -> bytes:
    """Return 16 bytes that equal texts share."""
    digest = hashlib.blake2b(normalise(text).encode(), digest_size=16)
    if second is not None:
        digest.update(b"\0" + normalise(second).encode())
    return digest.digest()


def _left_out(dropped: dict[str, int]) -> str:
    return f"; left out: {_listed(dropped)}" if dropped else ""


def _listed(dropped: dict[str, int]) -> str:
    return ", ".join(f"{count:,} x {reason}" for reason, count in dropped.items())


__all__ = ["BareTexts", "MoreTexts", "read_general", "read_unlabelled"]
