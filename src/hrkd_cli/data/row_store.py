"""The rows of a source in a DuckDB database: as read, with hashes of their texts, or the reason why they are dropped.

Two texts are equal if they are the same after ``normalize_text``. ``text_hash`` is the hash of a row's normalized first
text, ``input_hash`` that of both normalized texts (of the first if there is only one).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from hrkd_cli.data.drop_reasons import DropReason
from hrkd_cli.data.label_checks import ONE_LABEL, check_single_labels
from hrkd_cli.data.row_batches import UNKNOWN_SPLIT, clean_name, make_batches
from hrkd_cli.data.sources.row_reader import RowReader, SourceFile
from hrkd_cli.errors import DataError
from hrkd_cli.events import OnEvent, Progress, ignore
from hrkd_cli.formatting import join_names, plural
from hrkd_cli.predict.name_validation import validate_names

MAX_LOCATIONS = 1000  # locations that are listed per drop reason; the counts are always complete
_MEMORY_LIMIT = "800MB"
_BATCHES_PER_INSERT = 240  # together they fill a DuckDB row group, which is written to disk at once
TEXT_HASH = "md5_number(normalized(text))"  # SQL of the hash of a row's first text
PAIR_HASH = "md5_number(normalized(text) || chr(10) || normalized(text_pair))"
"""SQL of the hash of both texts; null if there is only one."""

_CREATE_TABLES = r"""
CREATE MACRO normalized(t) AS  -- the same as normalize_text, which is called only for non-ASCII texts
  CASE WHEN strlen(t) != length(t) THEN normalize_text(t)
       WHEN regexp_matches(t, '^ | $|  |[\x09-\x0d\x1c-\x1f]')
       THEN trim(regexp_replace(lower(t), '[\x09-\x0d\x1c-\x20]+', ' ', 'g'))
       ELSE lower(t) END;
CREATE MACRO hash_to_text(h) AS  -- 150 times as fast as casting all 128 bits to text
  (h >> 64)::UBIGINT || '/' || (h & 18446744073709551615::UHUGEINT)::UBIGINT;
CREATE TABLE rows (
  file VARCHAR, line BIGINT, location VARCHAR GENERATED ALWAYS AS (file || ':' || line),
  text VARCHAR, text_pair VARCHAR, label VARCHAR, domain VARCHAR, split VARCHAR,
  text_hash UHUGEINT, input_hash UHUGEINT, drop_reason VARCHAR);
CREATE TABLE dropped_rows (id BIGINT, drop_reason VARCHAR);
CREATE TABLE assigned_splits (text_hash UHUGEINT, split VARCHAR);
CREATE VIEW final_rows AS
  SELECT rows.rowid AS id, rows.* REPLACE (
    coalesce(rows.drop_reason, dropped_rows.drop_reason) AS drop_reason,
    coalesce(assigned_splits.split, rows.split, 'train') AS split)
  FROM rows
  LEFT JOIN dropped_rows ON dropped_rows.id = rows.rowid
  LEFT JOIN assigned_splits ON assigned_splits.text_hash = rows.text_hash;
"""

_INSERT_BATCH = f"""
INSERT INTO rows
WITH normalized_batch AS (
  SELECT *, normalized(text) AS normalized_text, normalized(text_pair) AS normalized_pair FROM batch),
checked_batch AS (
  SELECT * REPLACE (CASE
    WHEN domain IS NOT NULL AND NOT list_contains($domains::VARCHAR[], domain) THEN '{DropReason.OTHER_DOMAIN}'
    WHEN drop_reason IS NOT NULL THEN drop_reason
    WHEN domain IS NULL THEN '{DropReason.NO_DOMAIN}'
    WHEN split = '{UNKNOWN_SPLIT}' THEN '{DropReason.UNKNOWN_SPLIT}'
    WHEN coalesce(normalized_text, '') = '' THEN '{DropReason.EMPTY_TEXT}'
    WHEN $has_pairs AND coalesce(normalized_pair, '') = '' THEN '{DropReason.EMPTY_PAIR}'
    WHEN $require_label AND (label IS NULL OR label = $no_label::VARCHAR) THEN '{DropReason.NO_LABEL}'
    END AS drop_reason)
  FROM normalized_batch)
SELECT $file, line, CASE WHEN drop_reason IS NULL THEN text END, CASE WHEN drop_reason IS NULL THEN text_pair END,
  label, domain, split, md5_number(normalized_text),
  md5_number(CASE WHEN $has_pairs THEN normalized_text || chr(10) || normalized_pair ELSE normalized_text END),
  drop_reason
FROM checked_batch
"""

_COUNT_DROPPED = f"""
SELECT drop_reason, count(*), arg_min(location, id, {MAX_LOCATIONS}) FROM final_rows
WHERE drop_reason NOT IN ('{DropReason.OTHER_DOMAIN}', '{DropReason.FEW_SHOT}')
  AND domain IS NOT DISTINCT FROM coalesce(?, domain)
GROUP BY drop_reason
ORDER BY CASE WHEN drop_reason IN ('{DropReason.IN_TEST}', '{DropReason.IN_DEV}') THEN 1
              WHEN drop_reason IN ('{DropReason.DUPLICATE}', '{DropReason.CONFLICTING_DUPLICATE}') THEN 2
              ELSE 0 END, min(id)
"""

_CHECKSUM = """
SELECT sum(strlen(text)),
  sha256(bit_xor(md5_number(row(rowid, text, text_pair, label, domain, split)::VARCHAR))::VARCHAR)
FROM rows
"""


def normalize_text(text: str) -> str:
    """Return a text without differences in case, width, ligatures and white space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


@contextmanager
def open_row_store(
    source: str, folder: Path | None = None, *, require_label: bool = True, renames: Mapping[str, str] | None = None
) -> Iterator[RowStore]:
    """Open an empty row store.

    ``folder`` is for the database and data that do not fit in memory; None keeps everything in memory. ``renames`` are
    new names of labels by old name; an empty one drops the rows.

    Raises:
        OSError: the database cannot be written.
    """
    import duckdb
    import pyarrow as pa

    def normalize_array(texts: Any) -> Any:
        return pa.array([normalize_text(text) for text in texts.to_pylist()], pa.string())

    try:
        with closing(duckdb.connect(":memory:" if folder is None else str(folder / "rows.duckdb"))) as connection:
            if folder is not None:
                connection.execute(f"SET memory_limit = '{_MEMORY_LIMIT}'")
                connection.execute("SET temp_directory = ?", [str(folder / "spill")])
            connection.create_function("normalize_text", normalize_array, ["VARCHAR"], "VARCHAR", type="arrow")
            connection.execute(_CREATE_TABLES)
            yield RowStore(connection, source, require_label, renames or {})
    except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
        raise OSError(" ".join(str(error).split())[:200]) from error


@dataclass(slots=True)
class RowStore:
    """The rows of a source in DuckDB, in the order in which they were read (``rowid``).

    Attributes:
        connection: the DuckDB connection. The table ``rows`` has the rows as read, with a ``drop_reason`` if a row
            cannot be used. The view ``final_rows`` has the same rows with their final split, and also a
            ``drop_reason`` for rows that ``assign_splits`` drops.
        require_label: whether rows without a label are dropped.
        renames: new names of labels by old name; an empty one drops the rows.
        has_pairs: whether rows have two texts; None before the first file.
        first_file: display name of the first file; empty before it is read.
    """

    connection: Any
    source: str
    require_label: bool = True
    renames: Mapping[str, str] = field(default_factory=dict)
    has_pairs: bool | None = None
    first_file: str = ""
    _renamed: set[str] = field(default_factory=set)

    def add(
        self,
        file: SourceFile,
        reader: RowReader,
        columns: Mapping[str, int],
        *,
        domains: Sequence[str] | None = None,
        on_event: OnEvent = ignore,
    ) -> None:
        """Read the rows of a file; the file's own domain and split are used if no column gives them.

        ``columns`` are column indices by role; ``domains`` are those to keep (None keeps all).

        Raises:
            DataError: the file cannot be parsed, has no rows, or has second texts while others have none.
        """
        has_pairs = "text_pair" in columns
        if self.has_pairs not in (None, has_pairs):
            with_pairs, without = file.display_name, self.first_file
            if not has_pairs:
                with_pairs, without = without, with_pairs
            raise DataError(
                f"{with_pairs} has a second text and {without} has none; all domains must agree "
                "(hrkd prepare --text-pair names the column)"
            )
        self.has_pairs = has_pairs
        self.first_file = self.first_file or file.display_name
        # In SNLI's and MNLI's files, a gold label of "-" means that the annotators did not agree.
        is_gold_label = "label" in columns and reader.columns[columns["label"]].strip().casefold() == "gold_label"
        parameters = {
            "file": file.display_name,
            "has_pairs": has_pairs,
            "require_label": self.require_label,
            "no_label": "-" if is_gold_label else None,
            "domains": None if domains is None else list(domains),
        }
        rows = reader.iter_rows(list(columns.values()))
        constants = {"domain": file.domain and clean_name(file.domain), "split": file.split}
        batches = make_batches(rows, list(columns), constants, self._clean_label)
        count = 0
        # DuckDB inserts while Python reads the next batches.
        with ThreadPoolExecutor(1) as thread:
            insertion: Future[Any] = thread.submit(lambda: None)
            while group := list(islice(batches, _BATCHES_PER_INSERT)):
                insertion.result()
                insertion = thread.submit(self._insert, group, parameters)
                count += sum(map(len, group))
                on_event(Progress("reading rows", count))
            insertion.result()
        if not count:
            raise DataError(f"{file.display_name}: no rows in it")

    def _clean_label(self, text: str) -> str | None:
        name = clean_name(text)
        if name is None or name not in self.renames:
            return name
        self._renamed.add(name)
        return self.renames[name] or None

    def _insert(self, batches: Sequence[Any], parameters: Mapping[str, Any]) -> None:
        import pyarrow as pa

        # As a single batch, so that DuckDB keeps the order.
        self.connection.register("batch", pa.concat_tables(batches).combine_chunks())
        self.connection.execute(_INSERT_BATCH, parameters)

    def domains(self) -> list[str]:
        """Return the domains that have usable rows, sorted by name."""
        return self._distinct("domain", "drop_reason IS NULL")

    def labels(self) -> list[str]:
        """Return the labels of usable rows, sorted by name."""
        return self._distinct("label", "drop_reason IS NULL AND label IS NOT NULL")

    def check(self, domains: Iterable[str] | None) -> None:
        """Check that there are usable rows, that each domain has some, and that names are valid.

        Raises:
            DataError: a check fails, or one of the domains to keep or labels to rename does not exist.
        """
        for name in self.renames:
            if name not in self._renamed:
                raise DataError(
                    f"{self.source}: no label {name!r} (--rename-label); there are {join_names(self.labels(), 50)}"
                )
        existing, usable = self._distinct("domain", "domain IS NOT NULL"), self.domains()
        for name in domains or ():
            if name not in existing:
                raise DataError(f"{self.source}: no domain {name!r} (--domains); there are {join_names(existing, 50)}")
        if several := self.count_dropped().get(DropReason.NOT_ONE_LABEL):
            raise DataError(
                f"{several[1][0]}: a list or object as label (in {plural(several[0], 'row')}); {ONE_LABEL}, so give a "
                "column with a single label"
            )
        unusable = [name for name in existing if name not in usable and name in (domains or existing)]
        if unusable or not usable:
            domain = unusable[0] if usable else None
            dropped = self.count_dropped(domain)
            reasons = ", ".join(f"{count} x {reason}" for reason, (count, _) in dropped.items())
            _, locations = next(iter(dropped.values()))
            row = "row" if domain is None else f"row of domain {domain!r}"
            raise DataError(f"{self.source}: no {row} can be used: {reasons} (first: {locations[0]})")
        validate_names(usable, self.labels(), self.source)
        check_single_labels(self.labels(), self.source)

    def count_dropped(self, domain: str | None = None) -> dict[str, tuple[int, list[str]]]:
        """Return count and first locations (``file:line``) of dropped rows, by reason; of one domain or all.

        Unusable rows come first, then texts that are also in another split, then duplicates; each in order of
        occurrence.
        """
        return {reason: (count, locations) for reason, count, locations in self.fetch(_COUNT_DROPPED, [domain])}

    def checksum(self) -> dict[str, Any]:
        """Return size and sha256 of the rows, for a source without files."""
        ((size, digest),) = self.fetch(_CHECKSUM)
        return {"path": self.source, "bytes": size, "sha256": digest}

    def fetch(self, query: str, parameters: Any = ()) -> list[Any]:
        """Return all rows of the result of an SQL query."""
        rows: list[Any] = self.connection.execute(query, parameters).fetchall()
        return rows

    def _distinct(self, column: str, condition: str) -> list[str]:
        return [value for (value,) in self.fetch(f"SELECT DISTINCT {column} FROM rows WHERE {condition} ORDER BY ALL")]
