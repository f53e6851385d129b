"""Reading a source into DuckDB: one table of rows, each with its keys or the reason why it cannot be used.

Two texts are equal when they are the same after ``normalise``; ``key`` is the hash of a row's normalised first text,
``whole`` of both texts.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from hrkd_cli.data.names import check_domains, check_label, short
from hrkd_cli.data.sources import hub
from hrkd_cli.data.sources.columns import Columns, Places, find_columns
from hrkd_cli.data.sources.discover import Found
from hrkd_cli.data.sources.table import Row, Table
from hrkd_cli.data.sources.values import SPLIT_NAMES, Reason, UnusableError, as_text
from hrkd_cli.errors import DataError, UsageError
from hrkd_cli.events import Note, OnEvent, Progress

MAX_LISTED = 1000
"""Places that are listed for each reason; the counts are always whole."""
_ROLES = ("text", "text_pair", "label", "domain", "split")
_CHUNK = 1 << 15
_MEMORY = "800MB"
_SPACES = " || ".join(f"chr({code})" for code in (9, 10, 11, 12, 13, 28, 29, 30, 31))
_STRIPPED = "".join(chr(code) for code in range(0x3001) if chr(code).isspace())
_UNWANTED = "other domain"
"""Reason of rows of domains that are not kept; it is reported to nobody."""

_SPLIT_CASES = " ".join(f"WHEN t = '{name}' THEN '{split}'" for name, split in SPLIT_NAMES.items())
KEY = "md5_number(normalised(text))"
"""SQL of a row's key, and of the key of both its texts."""
WHOLE_KEY = "md5_number(normalised(text) || chr(10) || normalised(text_pair))"

_SETUP = f"""
CREATE MACRO squeezed(t) AS trim(CASE WHEN contains(t, '  ') THEN regexp_replace(t, ' +', ' ', 'g') ELSE t END);
CREATE MACRO normalised(t) AS
  CASE WHEN strlen(t) != length(t) THEN normalise(t)
       WHEN regexp_matches(t, '[\\x09-\\x0d\\x1c-\\x1f]') THEN squeezed(translate(lower(t), {_SPACES}, '         '))
       ELSE squeezed(lower(t)) END;
CREATE MACRO key_text(k) AS  -- casting all 128 bits to text takes 150 times as long
  (k >> 64)::UBIGINT || '/' || (k & 18446744073709551615::UHUGEINT)::UBIGINT;
CREATE MACRO is_missing(t) AS t IS NULL OR lower(t) IN ('', 'nan', 'null', '<na>');
CREATE MACRO stripped_name(t) AS
  CASE WHEN is_missing(t) THEN NULL
       WHEN contains(t, '.0') THEN regexp_replace(t, '^([+-]?\\d+)\\.0+$', '\\1') ELSE t END;
CREATE MACRO as_name(t) AS stripped_name(trim(t, '{_STRIPPED}'));
CREATE MACRO split_of(t) AS
  CASE WHEN is_missing(t) THEN NULL {_SPLIT_CASES}
       ELSE '?' END;
CREATE MACRO as_split(t) AS split_of(lower(trim(t, '{_STRIPPED}')));
CREATE TABLE rows (
  file INTEGER, line BIGINT, text VARCHAR, text_pair VARCHAR, label VARCHAR, domain VARCHAR, split VARCHAR,
  key UHUGEINT, whole UHUGEINT, reason VARCHAR);
"""


def normalise(text: str) -> str:
    """Return a text without differences of case, width, ligatures and white space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


@contextmanager
def open_store(source: str, folder: Path | None = None, *, labelled: bool = True) -> Iterator[RowStore]:
    """Give an empty store of rows.

    Args:
        source: what is read, for messages.
        folder: where rows and what does not fit into memory are put; None holds all in memory.
        labelled: whether a row without a label cannot be used.
    """
    import duckdb
    import pyarrow as pa

    def normalise_all(texts: Any) -> Any:
        return pa.array([normalise(text) for text in texts.to_pylist()], pa.string())

    with closing(duckdb.connect(":memory:" if folder is None else str(folder / "rows.duckdb"))) as con:
        if folder is not None:
            con.execute(f"SET memory_limit = '{_MEMORY}'")
            con.execute("SET temp_directory = ?", [str(folder / "spill")])
        con.create_function("normalise", normalise_all, ["VARCHAR"], "VARCHAR", type="arrow")
        con.execute(_SETUP)
        yield RowStore(con, source, labelled=labelled)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a source with columns of its own: a file, or a split of a hub dataset.

    Attributes:
        where: its name, for messages.
        table: its columns and rows.
        places: which column is which.
        domain: the domain that the file stands for, if any.
        split: the split that the file stands for, if any.
    """

    where: str
    table: Table
    places: Places
    domain: str | None = None
    split: str | None = None

    def roles(self) -> dict[str, int]:
        """Return the numbers of the columns that are read, by role."""
        found = {role: place for role in _ROLES if (place := getattr(self.places, role)) is not None}
        if self.split is not None:
            # A column that only happens to be called "split" does not overrule the file's name.
            found.pop("split", None)
        return found


class RowStore:
    """The rows of a source in DuckDB, in the order in which they were read (``rowid``).

    Attributes:
        con: the connection; its table ``rows`` holds all rows, ``reason`` is null for those that can be used.
        source: the source, as the user named it.
        pair: whether rows have two texts; None before the first part.
    """

    def __init__(self, con: Any, source: str, *, labelled: bool = True) -> None:
        """Wrap a connection.

        Args:
            con: a connection whose table ``rows`` is empty.
            source: the source, as the user named it.
            labelled: whether a row without a label cannot be used.
        """
        self.con = con
        self.source = source
        self._labelled = labelled
        self.pair: bool | None = None
        self._parts: list[Part] = []

    def add(self, part: Part, on_event: OnEvent, wanted: Sequence[str] | None = None) -> None:
        """Read a part.

        Args:
            part: the part.
            on_event: told how many rows were read.
            wanted: the domains to keep; None keeps all.

        Raises:
            DataError: it cannot be parsed, has no rows, or has a second text where other parts have none.
        """
        pair = part.places.text_pair is not None
        if self.pair is not None and self.pair is not pair:
            other = self._parts[0].where
            with_pair, without = (part.where, other) if pair else (other, part.where)
            raise DataError(
                f"{with_pair} has a second text and {without} has none; all domains must agree "
                "(--text-pair names the column)"
            )
        self.pair = pair
        self._parts.append(part)
        if not self._add_relation(part, wanted) and not self._add_chunks(part, on_event, wanted):
            raise DataError(f"{part.where}: no rows in it")

    def usable(self, columns: str = "text, text_pair, label, domain, split") -> Any:
        """Return the values of the rows that can be used, in order."""
        return self.con.execute(f"SELECT {columns} FROM rows WHERE reason IS NULL ORDER BY rowid")

    def domains(self) -> list[str]:
        """Return the names of the domains of rows that can be used, sorted by name."""
        return sorted(name for (name,) in self._all("SELECT DISTINCT domain FROM rows WHERE reason IS NULL"))

    def check(self, wanted: Iterable[str] | None) -> None:
        """Refuse a source without usable rows, a domain without any, and names that could not be written.

        Raises:
            DataError: it is refused, or a wanted domain is not in it.
        """
        seen = sorted(name for (name,) in self._all("SELECT DISTINCT domain FROM rows WHERE domain IS NOT NULL"))
        for name in wanted or ():
            if name not in seen:
                raise DataError(f"{self.source}: no domain {name!r} (--domains); there are {short(seen, 50)}")
        usable = self.domains()
        if not usable:
            raise DataError(f"{self.source}: no row can be used: {self._why('true')}")
        for name in seen if wanted is None else sorted(wanted):
            if name not in usable:
                why = self._why("domain = $domain", domain=name)
                raise DataError(f"{self.source}: no row of domain {name!r} can be used: {why}")
        check_domains(usable, self.source)
        for (label,) in self._all("SELECT DISTINCT label FROM rows WHERE reason IS NULL ORDER BY label"):
            check_label(label, self.source)

    def unusable(self) -> dict[str, tuple[int, list[str]]]:
        """Return count and first places of the rows that cannot be used by reason, in the order in which they occur."""
        return self.count_reasons(f"(SELECT rowid AS id, reason FROM rows WHERE reason != '{_UNWANTED}')")

    def count_reasons(self, relation: str) -> dict[str, tuple[int, list[str]]]:
        """Return count and first places of rows by reason, in the order of the rows.

        Args:
            relation: SQL of a relation with columns ``id`` (a rowid) and ``reason``.
        """
        counts = self._all(f"SELECT reason, count(*), min(id) AS first FROM {relation} GROUP BY reason ORDER BY first")
        return {
            reason: (count, self._places(f"(SELECT id FROM {relation} WHERE reason = $reason)", reason=reason))
            for reason, count, _ in counts
        }

    def content_stamp(self) -> dict[str, Any]:
        """Return the identity of a source without files: of what was read of it."""
        digest, size = hashlib.sha256(), 0
        result = self.con.execute("SELECT * EXCLUDE (key, whole) FROM rows ORDER BY rowid")
        while rows := result.fetchmany(_CHUNK):
            content = "".join(json.dumps(row) + "\n" for row in rows).encode()
            digest.update(content)
            size += len(content)
        return {"path": self.source, "bytes": size, "sha256": digest.hexdigest()}

    def _all(self, query: str, **values: Any) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = self.con.execute(query, values).fetchall()
        return found

    def _why(self, condition: str, **values: Any) -> str:
        where = f"WHERE reason IS NOT NULL AND {condition}"
        counts = self._all(f"SELECT count(*), reason FROM rows {where} GROUP BY reason ORDER BY min(rowid)", **values)
        first = self._places(f"(SELECT rowid AS id FROM rows {where})", limit=1, **values)
        return f"{', '.join(f'{count} x {reason}' for count, reason in counts)} (first: {first[0]})"

    def _places(self, ids: str, limit: int = MAX_LISTED, **values: Any) -> list[str]:
        """Return ``file:line`` of the first rows whose rowids a relation holds."""
        found = self._all(
            f"SELECT file, line, rowid FROM rows WHERE rowid IN {ids} ORDER BY rowid LIMIT {limit}", **values
        )
        lines = {rowid: line for _, line, rowid in found}
        unknown = defaultdict(list)
        for file, line, rowid in found:
            if line is None:
                unknown[file].append(rowid)
        for file, rowids in unknown.items():
            ((first,),) = self._all("SELECT min(rowid) FROM rows WHERE file = $file", file=file)
            rows = islice(self._parts[file].table.rows([]), rowids[-1] - first + 1)
            known = dict(enumerate((line for line, _ in rows), start=first))
            lines.update((rowid, known[rowid]) for rowid in rowids)
        return [f"{self._parts[file].where}:{lines[rowid]}" for file, _, rowid in found]

    def _add_relation(self, part: Part, wanted: Sequence[str] | None) -> bool:
        """Let DuckDB read a part; False where it cannot, or would read it otherwise than our reader does."""
        import duckdb

        if part.table.relation is None:
            return False
        columns = ", ".join(f"c{place} AS {role}" for role, place in part.roles().items())
        relation = f"(SELECT NULL::BIGINT AS line, NULL AS problem, {columns} FROM {part.table.relation})"
        self.con.execute("BEGIN")
        try:
            count = self._insert(part, relation, wanted)
            ((rejected,),) = self._all("SELECT count(*) FROM reject_errors")
        except duckdb.Error:
            count, rejected = 0, 1
        self.con.execute("ROLLBACK" if rejected else "COMMIT")
        self.con.execute("DROP TABLE IF EXISTS reject_errors; DROP TABLE IF EXISTS reject_scans")
        return count > 0 and not rejected

    def _add_chunks(self, part: Part, on_event: OnEvent, wanted: Sequence[str] | None) -> int:
        roles = list(part.roles())
        rows, count = part.table.rows(list(part.roles().values())), 0
        self.con.execute("BEGIN")
        while chunk := list(islice(rows, _CHUNK)):
            self.con.register("chunk", _text_table(chunk, roles))
            count += self._insert(part, "chunk", wanted)
            on_event(Progress("reading rows", count))
        self.con.execute("COMMIT")
        return count

    def _insert(self, part: Part, relation: str, wanted: Sequence[str] | None) -> int:
        roles = part.roles()
        values: dict[str, Any] = {"file": len(self._parts) - 1, "domain": part.domain, "split": part.split}
        # In SNLI's and MNLI's files a gold label of "-" means that the annotators did not agree.
        is_gold = "label" in roles and part.table.columns[roles["label"]].strip().casefold() == "gold_label"
        values |= {"no_label": "-" if is_gold else None, "label": part.table.label, "wanted": wanted and list(wanted)}
        pair = "text_pair" in roles
        query = f"""
        INSERT INTO rows
        WITH named AS (
          SELECT line, problem, text, {"text_pair" if pair else "NULL"} AS text_pair,
            {"as_name(label)" if "label" in roles else "$label::VARCHAR"} AS label,
            {"as_name(domain)" if "domain" in roles else "$domain::VARCHAR"} AS domain,
            {"as_split(split)" if "split" in roles else "$split::VARCHAR"} AS split,
            normalised(text) AS first, {"normalised(text_pair)" if pair else "''"} AS second
          FROM {relation}),
        judged AS (
          SELECT *, CASE
            WHEN domain IS NOT NULL AND NOT list_contains($wanted::VARCHAR[], domain) THEN '{_UNWANTED}'
            WHEN problem IS NOT NULL THEN problem
            WHEN domain IS NULL THEN '{Reason.NO_DOMAIN}'
            WHEN split = '?' THEN '{Reason.SPLIT}'
            WHEN coalesce(first, '') = '' THEN '{Reason.NO_TEXT}'
            WHEN {pair} AND coalesce(second, '') = '' THEN '{Reason.NO_PAIR}'
            WHEN {self._labelled} AND (label IS NULL OR label = $no_label::VARCHAR) THEN '{Reason.NO_LABEL}'
            END AS reason
          FROM named)
        SELECT $file, line, CASE WHEN reason IS NULL THEN text END, CASE WHEN reason IS NULL THEN text_pair END, label,
          domain, split, md5_number(first), {"md5_number(first || chr(10) || second)" if pair else "md5_number(first)"},
          reason
        FROM judged"""
        used = {name: value for name, value in values.items() if f"${name}" in query}
        ((count,),) = self._all(query, **used)
        return int(count)


def ingest(
    store: RowStore,
    found: Found,
    columns: Columns,
    *,
    domains: Sequence[str] | None,
    encoding: str | None = None,
    on_event: OnEvent,
) -> None:
    """Read a source into a store.

    Args:
        store: an empty store.
        found: what the source holds.
        columns: columns that the user named.
        domains: keep only these; None keeps all.
        encoding: encoding of text files; None is UTF-8, or what a byte order mark says.
        on_event: told what is read and what is skipped.

    Raises:
        DataError: a file cannot be parsed, or nothing of the source, or of a domain, can be used.
        UsageError: the encoding is unknown.
    """
    if encoding is not None:
        try:
            codecs.lookup(encoding)
        except LookupError:
            raise UsageError(f"--encoding: {encoding!r} is not a known encoding; try utf-8 or cp1252") from None
    for where, table, domain, split in _tables(store.source, found, encoding, on_event):
        if table.note:
            on_event(Note(table.note))
        places = find_columns(
            table.columns,
            columns,
            where=where,
            defaults=table.defaults,
            file_domain=domain is not None,
            needs_label=table.label is None,
        )
        named_split = split if columns.split is None else None
        store.add(Part(where, table, places, domain, named_split), on_event, domains)
    store.check(domains)


def _tables(
    source: str, found: Found, encoding: str | None, on_event: OnEvent
) -> Iterator[tuple[str, Table, str | None, str | None]]:
    """Yield (name, table, domain, split) of each part of a source."""
    if found.dataset is not None:
        on_event(Note(f"loading {source}"))
        used, others = hub.load(found.dataset)
        if others:
            on_event(Note(f"{source}: splits not read: {short(others)}", warning=True))
        yield from ((where, table, None, split) for where, split, table in used)
    if found.skipped:
        on_event(Note(f"{source}: not read: {short(found.skipped)}", warning=True))
    for file in found.files:
        yield str(file.path), file.open(encoding), file.domain, file.split


def stamps(found: Found, store: RowStore | None = None) -> list[dict[str, Any]]:
    """Return path, bytes and sha256 of what a source holds.

    Args:
        found: what the source holds.
        store: its rows, which stand for what has no files of its own.

    Raises:
        DataError: a file cannot be read.
    """
    if store is not None and found.dataset is not None:
        return [store.content_stamp()]
    entries = []
    for file in found.files:
        try:
            with file.path.open("rb") as handle:
                digest = hashlib.file_digest(handle, "sha256").hexdigest()
                entries.append({"path": file.name, "bytes": handle.tell(), "sha256": digest})
        except OSError as error:
            raise DataError(f"{file.path}: cannot be read: {error.strerror or error}") from None
    return entries


def _text_table(rows: Sequence[Row], roles: Sequence[str]) -> Any:
    """Return rows as an Arrow table of texts, with columns ``line`` and ``problem``."""
    import pyarrow as pa

    problems: list[str | None] = [Reason.FIELDS if values is None else None for _, values in rows]
    no_values = (None,) * len(roles)
    columns = zip(*(no_values if values is None else values for _, values in rows), strict=True)
    arrays = {"line": pa.array([line for line, _ in rows], pa.int64())}
    for role, column in zip(roles, columns, strict=True):
        try:
            arrays[role] = pa.array(column, pa.string())
        except (pa.ArrowException, UnicodeError):  # not all of them are texts
            arrays[role] = pa.array(list(_as_texts(column, problems)), pa.string())
    return pa.table({**arrays, "problem": pa.array(problems, pa.string())})


def _as_texts(values: Iterable[object], problems: list[str | None]) -> Iterator[str | None]:
    """Yield values as texts, and note the problems of those that are none."""
    for number, value in enumerate(values):
        try:
            yield as_text(value)
        except UnusableError as problem:
            problems[number] = problem.reason
            yield None
