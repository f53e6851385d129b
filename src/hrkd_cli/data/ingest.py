"""Reading a source into DuckDB: one table of rows, each with its keys or the reason why it cannot be used.

Two texts are equal when they are the same after ``normalise``; ``key`` is the hash of a row's normalised first text,
``whole`` of both texts.
"""

from __future__ import annotations

import codecs
import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from hrkd_cli.data.names import check_names, short
from hrkd_cli.data.sources.columns import USUAL, Row, SourceFile, Table, find_columns
from hrkd_cli.data.sources.values import SPLIT_NAMES, Reason, UnusableError, as_text
from hrkd_cli.errors import DataError, UsageError
from hrkd_cli.events import Note, OnEvent, Progress, ignore

MAX_LISTED = 1000
"""Places that are listed for each reason; the counts are always whole."""
_MEMORY = "800MB"
# A batch of Python rows is small, so that the garbage collector does not walk through it again and again; what is
# inserted together fills one of DuckDB's row groups, which goes straight to disk.
_BATCH = 512
_BATCHES = 240
_MISSING = ("", "nan", "null", "<na>")
_WHOLE_NUMBER = re.compile(r"([+-]?[0-9]+)\.0+")
KEY = "md5_number(normalised(text))"
"""SQL of a row's key, and of the key of both its texts."""
WHOLE_KEY = "md5_number(normalised(text) || chr(10) || normalised(text_pair))"

_SETUP = r"""
CREATE MACRO normalised(t) AS  -- as normalise does, which only other alphabets need
  CASE WHEN strlen(t) != length(t) THEN normalise(t)
       WHEN regexp_matches(t, '^ | $|  |[\x09-\x0d\x1c-\x1f]')
       THEN trim(regexp_replace(lower(t), '[\x09-\x0d\x1c-\x20]+', ' ', 'g'))
       ELSE lower(t) END;
CREATE MACRO key_text(k) AS  -- casting all 128 bits to text takes 150 times as long
  (k >> 64)::UBIGINT || '/' || (k & 18446744073709551615::UHUGEINT)::UBIGINT;
CREATE TABLE rows (
  file INTEGER, line BIGINT, text VARCHAR, text_pair VARCHAR, label VARCHAR, domain VARCHAR, split VARCHAR,
  key UHUGEINT, whole UHUGEINT, reason VARCHAR);
CREATE TABLE left_out (id BIGINT, reason VARCHAR);
CREATE TABLE cut (key UHUGEINT, split VARCHAR);
CREATE VIEW placed AS
  SELECT rows.rowid AS id, rows.* REPLACE (
    coalesce(rows.reason, left_out.reason) AS reason, coalesce(cut.split, rows.split, 'train') AS split)
  FROM rows LEFT JOIN left_out ON left_out.id = rows.rowid LEFT JOIN cut ON cut.key = rows.key;
"""

_INSERT = f"""
INSERT INTO rows
WITH judged AS (
  SELECT *, CASE
    WHEN domain IS NOT NULL AND NOT list_contains($wanted::VARCHAR[], domain) THEN '{Reason.UNWANTED}'
    WHEN problem IS NOT NULL THEN problem
    WHEN domain IS NULL THEN '{Reason.NO_DOMAIN}'
    WHEN split = '?' THEN '{Reason.SPLIT}'
    WHEN coalesce(first, '') = '' THEN '{Reason.NO_TEXT}'
    WHEN $pair AND coalesce(second, '') = '' THEN '{Reason.NO_PAIR}'
    WHEN $labelled AND (label IS NULL OR label = $no_label::VARCHAR) THEN '{Reason.NO_LABEL}'
    END AS reason
  FROM (SELECT *, normalised(text) AS first, normalised(text_pair) AS second FROM chunk))
SELECT $file, line, CASE WHEN reason IS NULL THEN text END, CASE WHEN reason IS NULL THEN text_pair END, label,
  domain, split, md5_number(first), md5_number(CASE WHEN $pair THEN first || chr(10) || second ELSE first END), reason
FROM judged
"""

_DROPPED = f"""
SELECT reason, count(*), arg_min((file, line), id, {MAX_LISTED}) FROM placed
WHERE reason NOT IN ('{Reason.UNWANTED}', '{Reason.NOT_OF_THE_FEW}') AND domain IS NOT DISTINCT FROM coalesce(?, domain)
GROUP BY reason
ORDER BY CASE WHEN reason IN ('{Reason.IN_TEST}', '{Reason.IN_DEV}') THEN 1
              WHEN reason IN ('{Reason.DUPLICATE}', '{Reason.CONFLICT}') THEN 2 ELSE 0 END, min(id)
"""


_CONTENT = """
SELECT sum(strlen(text)),
  sha256(bit_xor(md5_number(row(rowid, text, text_pair, label, domain, split)::VARCHAR))::VARCHAR)
FROM rows
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

    Raises:
        OSError: the database cannot be written.
    """
    import duckdb
    import pyarrow as pa

    def normalise_all(texts: Any) -> Any:
        return pa.array([normalise(text) for text in texts.to_pylist()], pa.string())

    try:
        with closing(duckdb.connect(":memory:" if folder is None else str(folder / "rows.duckdb"))) as con:
            if folder is not None:
                con.execute(f"SET memory_limit = '{_MEMORY}'")
                con.execute("SET temp_directory = ?", [str(folder / "spill")])
            con.create_function("normalise", normalise_all, ["VARCHAR"], "VARCHAR", type="arrow")
            con.execute(_SETUP)
            yield RowStore(con, source, labelled)
    except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
        raise OSError(" ".join(str(error).split())[:200]) from error


@dataclass(slots=True)
class RowStore:
    """The rows of a source in DuckDB, in the order in which they were read (``rowid``).

    Attributes:
        con: the connection. Its table ``rows`` holds what was read, with a ``reason`` where a row cannot be used; its
            view ``placed`` the same rows with their splits, and a ``reason`` also where split_rows leaves them out.
        source: the source, as the user named it.
        labelled: whether a row without a label cannot be used.
        pair: whether rows have two texts; None before the first file.
        files: names of the files read so far.
    """

    con: Any
    source: str
    labelled: bool = True
    pair: bool | None = None
    files: list[str] = field(default_factory=list)

    def add(
        self,
        file: SourceFile,
        table: Table,
        places: Mapping[str, int],
        *,
        wanted: Sequence[str] | None = None,
        on_event: OnEvent = ignore,
    ) -> None:
        """Read the table of a file; the file's own domain and split count where no column says them.

        Args:
            file: where the table is from.
            table: its columns and rows.
            places: column numbers by role.
            wanted: the domains to keep; None keeps all.
            on_event: told how many rows were read.

        Raises:
            DataError: it cannot be parsed, has no rows, or has a second text where others have none.
        """
        pair = "text_pair" in places
        if self.pair not in (None, pair):
            with_pair, without = (file.where, self.files[0]) if pair else (self.files[0], file.where)
            raise DataError(
                f"{with_pair} has a second text and {without} has none; all domains must agree "
                "(--text-pair names the column)"
            )
        self.pair = pair
        self.files.append(file.where)
        # In SNLI's and MNLI's files a gold label of "-" means that the annotators did not agree.
        is_gold = "label" in places and table.columns[places["label"]].strip().casefold() == "gold_label"
        values = {
            "file": len(self.files) - 1,
            "pair": pair,
            "labelled": self.labelled,
            "no_label": "-" if is_gold else None,
            "wanted": None if wanted is None else list(wanted),
        }
        constants = {"domain": file.domain, "split": file.split}
        batches = _text_batches(table.rows(list(places.values())), list(places), constants)
        count = 0
        # DuckDB works on one chunk while Python reads the next.
        with ThreadPoolExecutor(1) as thread:
            insertion: Future[Any] = thread.submit(lambda: None)
            while chunk := list(islice(batches, _BATCHES)):
                insertion.result()
                insertion = thread.submit(self._insert, chunk, values)
                count += sum(map(len, chunk))
                on_event(Progress("reading rows", count))
            insertion.result()
        if not count:
            raise DataError(f"{file.where}: no rows in it")

    def _insert(self, batches: Sequence[Any], values: Mapping[str, Any]) -> None:
        import pyarrow as pa

        # One batch, so that DuckDB keeps the order.
        self.con.register("chunk", pa.concat_tables(batches).combine_chunks())
        self.con.execute(_INSERT, values)

    def domains(self) -> list[str]:
        """Return the names of the domains of rows that can be used, sorted by name."""
        return self._names("domain", "reason IS NULL")

    def check(self, wanted: Iterable[str] | None) -> None:
        """Refuse a source without usable rows, a domain without any, and names that could not be written.

        Raises:
            DataError: it is refused, or a wanted domain is not in it.
        """
        seen, usable = self._names("domain", "domain IS NOT NULL"), self.domains()
        for name in wanted or ():
            if name not in seen:
                raise DataError(f"{self.source}: no domain {name!r} (--domains); there are {short(seen, 50)}")
        without = [name for name in seen if name not in usable and name in (wanted or seen)]
        if without or not usable:
            domain = without[0] if usable else None
            counts = self.dropped(domain)
            why = ", ".join(f"{count} x {reason}" for reason, (count, _) in counts.items())
            first = next(iter(counts.values()))[1][0]
            rows = "row" if domain is None else f"row of domain {domain!r}"
            raise DataError(f"{self.source}: no {rows} can be used: {why} (first: {first})")
        check_names(usable, self._names("label", "reason IS NULL"), self.source)

    def dropped(self, domain: str | None = None) -> dict[str, tuple[int, list[str]]]:
        """Return count and first places (``file:line``) of rows that are not used, by reason.

        Those that cannot be used come first, then texts of another split, then duplicates; each in the order in which
        they occur.

        Args:
            domain: count this domain's rows alone.
        """
        return {
            reason: (count, [f"{self.files[file]}:{line}" for file, line in places])
            for reason, count, places in self.con.execute(_DROPPED, [domain]).fetchall()
        }

    def content_stamp(self) -> dict[str, Any]:
        """Return the identity of a source without files: of what was read of it."""
        size, digest = self.con.execute(_CONTENT).fetchone()
        return {"path": self.source, "bytes": size, "sha256": digest}

    def _names(self, column: str, condition: str) -> list[str]:
        found = self.con.execute(f"SELECT DISTINCT {column} FROM rows WHERE {condition}").fetchall()
        return sorted(name for (name,) in found)


def ingest(
    store: RowStore,
    files: Iterable[SourceFile],
    columns: Mapping[str, str],
    *,
    domains: Sequence[str] | None = None,
    encoding: str | None = None,
    on_event: OnEvent,
) -> None:
    """Read a source into a store.

    Args:
        store: an empty store.
        files: what the source holds.
        columns: column names by role, those that the user named.
        domains: keep only these; None keeps all.
        encoding: encoding of text files; None is UTF-8, or what a byte order mark says.
        on_event: told what is read.

    Raises:
        DataError: a file cannot be parsed, or nothing of the source, or of a domain, can be used.
        UsageError: the encoding is unknown.
    """
    if encoding is not None:
        try:
            codecs.lookup(encoding)
        except LookupError:
            raise UsageError(f"--encoding: {encoding!r} is not a known encoding; try utf-8 or cp1252") from None
    for file in files:
        table = file.open(encoding)
        if table.note:
            on_event(Note(table.note))
        places = find_columns(table, columns, where=file.where, file_domain=file.domain is not None)
        if file.split is not None and "split" not in columns:
            # A column that only happens to be called "split" does not overrule the file's name.
            places.pop("split", None)
        store.add(file, table, places, wanted=domains, on_event=on_event)
    store.check(domains)


def stamps(files: Iterable[SourceFile], store: RowStore | None = None) -> list[dict[str, Any]]:
    """Return path, bytes and sha256 of the files of a source; of what was read where it has no files.

    Raises:
        DataError: a file cannot be read.
    """
    entries = []
    for file in files:
        if file.path is None:
            return [] if store is None else [store.content_stamp()]
        try:
            with file.path.open("rb") as handle:
                digest = hashlib.file_digest(handle, "sha256").hexdigest()
                entries.append({"path": file.name, "bytes": handle.tell(), "sha256": digest})
        except OSError as error:
            raise DataError(f"{file.path}: cannot be read: {error.strerror or error}") from None
    return entries


def _text_batches(rows: Iterator[Row], roles: Sequence[str], constants: Mapping[str, str | None]) -> Iterator[Any]:
    """Yield rows as Arrow tables of texts: ``line``, ``problem`` and each role, constant or null where none is read."""
    import pyarrow as pa

    no_values = (None,) * len(roles)
    while batch := list(islice(rows, _BATCH)):
        problems: list[str | None] = [Reason.FIELDS if values is None else None for _, values in batch]
        columns = zip(*(no_values if values is None else values for _, values in batch), strict=True)
        arrays = {"line": pa.array([line for line, _ in batch], pa.int64())}
        for role, column in zip(roles, columns, strict=True):
            try:
                arrays[role] = pa.array(column, pa.string())
            except (pa.ArrowException, UnicodeError):  # not all of them are texts
                arrays[role] = pa.array(list(_as_texts(column, problems)), pa.string())
            if role in _READ_NAME:
                names = arrays[role].dictionary_encode()
                known = pa.array([_READ_NAME[role](name) for name in names.dictionary.to_pylist()], pa.string())
                arrays[role] = known.take(names.indices)
        for role in USUAL.keys() - arrays.keys():
            arrays[role] = pa.repeat(pa.scalar(constants.get(role), pa.string()), len(batch))
        yield pa.table({**arrays, "problem": pa.array(problems, pa.string())})


def _as_texts(values: Iterable[object], problems: list[str | None]) -> Iterator[str | None]:
    """Yield values as texts, and note the problems of those that are none."""
    for number, value in enumerate(values):
        try:
            yield as_text(value)
        except UnusableError as problem:
            problems[number] = str(problem)
            yield None


def _as_name(text: str) -> str | None:
    """Return a domain or label without outer spaces and the ``.0`` of a whole number; None where there is none."""
    name = text.strip()
    number = _WHOLE_NUMBER.fullmatch(name)
    return None if name.lower() in _MISSING else number[1] if number else name


def _as_split(text: str) -> str | None:
    name = text.strip().lower()
    return None if name in _MISSING else SPLIT_NAMES.get(name, "?")


_READ_NAME: dict[str, Callable[[str], str | None]] = {"label": _as_name, "domain": _as_name, "split": _as_split}
