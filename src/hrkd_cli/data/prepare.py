"""The prepare stage: any source to a prepared dataset folder.

While rows are read, split and written, they are in a DuckDB database in the output's ``.partial`` folder, so a source
may be larger than memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hrkd_cli.command_settings import PrepareSettings
from hrkd_cli.data.dataset import ROW_GROUP_SIZE, update_fingerprint
from hrkd_cli.data.dataset_folder import (
    FORMAT,
    LOCATION,
    VERSION,
    DomainCounts,
    is_prepared,
    text_columns,
    write_manifest,
)
from hrkd_cli.data.drop_reasons import DropReason
from hrkd_cli.data.findings import (
    Finding,
    StratumCounts,
    find_label_problems,
    find_text_problems,
    measure_lengths,
)
from hrkd_cli.data.ingest import compute_checksums, ingest
from hrkd_cli.data.row_batches import UNKNOWN_SPLIT
from hrkd_cli.data.row_store import RowStore, open_row_store
from hrkd_cli.data.sources.discover import find_source_files
from hrkd_cli.data.sources.row_reader import SourceFile
from hrkd_cli.data.splits import assign_splits, subsample_train
from hrkd_cli.errors import DataError
from hrkd_cli.events import Note, OnEvent, Progress, ignore
from hrkd_cli.formatting import join_names
from hrkd_cli.layout import SPLITS, DatasetFiles
from hrkd_cli.outputs import atomic_folder, check_no_overlap, check_output
from hrkd_cli.version import __version__

_LEAKS = (DropReason.IN_TEST, DropReason.IN_DEV)
_MAX_LEAKING = 0.9  # fraction of a domain's train rows; with more, the source's splits are surely wrong
_CONTENT_OPTIONS = (
    "columns", "dev", "test", "few_shot", "domains", "dedupe", "encoding", "one_domain", "no_header", "rename_label",
)  # fmt: skip
# The reason for which a split of the source loses more than half of its rows.
_MAIN_LOSSES = f"""
WITH counts AS (
  SELECT rows.domain, coalesce(rows.split, 'train') AS source_split,
    coalesce(rows.drop_reason, dropped_rows.drop_reason) AS reason, count(*) AS number
  FROM rows LEFT JOIN dropped_rows ON dropped_rows.id = rows.rowid
  WHERE rows.domain IS NOT NULL AND source_split != '{UNKNOWN_SPLIT}'
    AND reason IS DISTINCT FROM '{DropReason.OTHER_DOMAIN}'
  GROUP BY ALL)
SELECT *, sum(number) OVER (PARTITION BY domain, source_split) AS total
FROM counts QUALIFY reason IS NOT NULL AND 2 * number > total ORDER BY ALL
"""
_SELECT_ROWS = """
SELECT {columns} FROM final_rows WHERE drop_reason IS NULL
ORDER BY domain, CASE split WHEN 'train' THEN 0 WHEN 'dev' THEN 1 ELSE 2 END, id
"""


@dataclass(frozen=True, slots=True)
class PrepareResult:
    """Result of ``prepare``.

    Attributes:
        out: the dataset folder.
        domains: counts by domain, sorted by name.
        dropped: number of dropped rows by reason.
        dropped_rows: locations (``file:line``) of the first dropped rows by reason.
        fingerprint: the dataset's fingerprint.
        lengths: median, 95th percentile and maximum of the characters of a row, by domain.
        findings: probable mistakes in the data.
    """

    out: Path
    domains: dict[str, DomainCounts]
    dropped: dict[str, int]
    dropped_rows: dict[str, tuple[str, ...]]
    fingerprint: str
    lengths: dict[str, dict[str, int]]
    findings: tuple[Finding, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the output of ``hrkd prepare --json``."""
        return {
            "domains": {name: asdict(c) for name, c in self.domains.items()},
            "dropped": dict(self.dropped),
            "characters": self.lengths,
            "findings": [{**asdict(finding), "rows": finding.rows[:1]} for finding in self.findings],
        }

    def dropped_lines(self) -> list[str]:
        """Return one line per drop reason, with the number of rows and their first locations."""
        return [describe_dropped(reason, count, self.dropped_rows[reason]) for reason, count in self.dropped.items()]


def describe_dropped(reason: str, count: int, locations: Sequence[str]) -> str:
    """Return a line with the number of rows dropped for a reason, and the first three of their locations."""
    first = [*locations[:3], *(["..."] if count > 3 else [])]
    return f"not used: {count} {'row' if count == 1 else 'rows'}, {reason} ({', '.join(first)})"


def prepare(source: str | Path, *, on_event: OnEvent = ignore, **options: Any) -> PrepareResult:
    """Read a source, split it and write a dataset folder.

    Args:
        source: a file, a folder or a hub dataset id (``owner/name``, ``owner/name:config``).
        on_event: called with every event.
        **options: fields of ``hrkd_cli.command_settings.PrepareSettings``.

    Raises:
        UsageError: an option is out of range.
        DataError: something is wrong with the source.
        OutputError: the output exists or cannot be written.
    """
    settings = PrepareSettings(source=str(source), **options)
    check_output(settings.out, kind="dataset", is_ours=is_prepared, written=DatasetFiles.written, force=settings.force)
    return prepare_files(find_source_files(source, settings.format, on_event=on_event), settings, on_event)


def prepare_files(files: Sequence[SourceFile], settings: PrepareSettings, on_event: OnEvent) -> PrepareResult:
    """Prepare the files of a source, replacing any output; see ``prepare``."""
    out = settings.out
    if Path(settings.source).exists():  # else it is a hub id
        check_no_overlap(out, {"source": Path(settings.source)})
    with atomic_folder(out) as folder:
        with (
            TemporaryDirectory(dir=folder) as scratch,
            open_row_store(settings.source, Path(scratch), renames=settings.renames) as store,
        ):
            seed = settings.seed
            ingest(store, files, settings, on_event)
            checksums = compute_checksums(files, store)
            assign_splits(store.connection, dev=settings.dev, test=settings.test, dedupe=settings.dedupe, seed=seed)
            dropped = store.count_dropped()
            for reason, (count, locations) in dropped.items():
                warning = not reason.startswith("duplicate")
                on_event(Note(describe_dropped(reason, count, locations), warning=warning))
            losses = list(_check_losses(store))
            few_shot = settings.few_shot
            left_out = 0 if few_shot is None else subsample_train(store.connection, few_shot, seed)
            counts = _count_strata(store)
            domain_counts = {name: _count_domain(labels) for name, labels in counts.items()}
            if few_shot is not None:
                train = sum(entry.train for entry in domain_counts.values())
                on_event(Note(f"few-shot: {train} of {train + left_out} train rows kept"))
            lengths, findings = _find_problems(store, counts, losses, on_event)
            has_pairs = bool(store.has_pairs)
            fingerprint = _write_splits(folder, store, domain_counts, on_event)
        result = PrepareResult(
            out=out,
            domains=domain_counts,
            dropped={reason: count for reason, (count, _) in dropped.items()},
            dropped_rows={reason: tuple(locations) for reason, (_, locations) in dropped.items()},
            fingerprint=fingerprint,
            lengths=lengths,
            findings=findings,
        )
        write_manifest(folder, _manifest(result, settings, checksums, has_pairs=has_pairs))
    return result


def _write_splits(folder: Path, store: RowStore, domains: Mapping[str, DomainCounts], on_event: OnEvent) -> str:
    """Write rows that have splits to one Parquet file per domain and split, and return the dataset's fingerprint.

    ``domains`` are the counts, sorted by name.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = text_columns(has_pairs=bool(store.has_pairs))
    schema = pa.schema([(name, pa.string()) for name in (*columns, "domain", LOCATION)])
    files = [(domain, split, getattr(counts, split)) for domain, counts in domains.items() for split in SPLITS]
    # A relation, because a connection has a single pending result.
    batches = store.connection.sql(_SELECT_ROWS.format(columns=", ".join(schema.names))).to_arrow_reader(ROW_GROUP_SIZE)
    buffered = batches.schema.empty_table()
    digest, written, total = hashlib.sha256(), 0, sum(count for _, _, count in files)
    # Texts seldom repeat, so a dictionary encoding of them would only be tried and abandoned.
    options: dict[str, Any] = {"compression": "zstd", "use_dictionary": ["label", "domain"]}
    for domain, split, count in files:
        if not count:
            continue
        path = folder / DatasetFiles.data / domain / f"{split}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(str(path), schema, **options) as writer:
            for first in range(0, count, ROW_GROUP_SIZE):
                size = min(ROW_GROUP_SIZE, count - first)
                while len(buffered) < size:
                    buffered = pa.concat_tables([buffered, pa.Table.from_batches([batches.read_next_batch()])])
                group, buffered = buffered.slice(0, size), buffered.slice(size)
                update_fingerprint(digest, domain, split, group.select(columns).to_pydict())
                writer.write_table(group, row_group_size=ROW_GROUP_SIZE)
                written += size
                on_event(Progress("writing rows", written, total))
    return digest.hexdigest()


def _manifest(
    result: PrepareResult, settings: PrepareSettings, checksums: list[dict[str, Any]], *, has_pairs: bool
) -> dict[str, Any]:
    """Return the content of ``dataset.json``."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "hrkd_cli": __version__,
        "fingerprint": result.fingerprint,
        "pair": has_pairs,
        "labels": {name: list(entry.labels) for name, entry in result.domains.items()},
        "domains": result.to_json()["domains"],
        "source": settings.source,
        "sources": checksums,
        "seed": settings.seed,
        "options": {"format": str(settings.format), **content_options(settings)},
        "dropped": {name: {"count": n, "rows": result.dropped_rows[name]} for name, n in result.dropped.items()},
        "characters": result.lengths,
        "findings": [asdict(finding) for finding in result.findings],
    }


def content_options(settings: PrepareSettings) -> dict[str, Any]:
    """Return the options that determine the rows of a dataset, as stored in ``dataset.json``."""
    options = {name: getattr(settings, name) for name in _CONTENT_OPTIONS}
    return {**options, "domains": settings.domains and sorted(settings.domains)}


def _find_problems(
    store: RowStore, counts: StratumCounts, losses: Sequence[Finding], on_event: OnEvent
) -> tuple[dict[str, dict[str, int]], tuple[Finding, ...]]:
    """Report ``losses`` and what is found in the final rows; return the lengths by domain and all findings."""
    lengths, unusual_lengths = measure_lengths(store)
    labels = find_label_problems(store, counts)
    findings = (*losses, *labels, *find_text_problems(store, counts, on_event), *unusual_lengths)
    for finding in findings:
        on_event(Note(str(finding), warning=finding.warning))
    return lengths, findings


def _check_losses(store: RowStore) -> Iterator[Finding]:
    """Yield findings about splits of the source that lost most of their rows for one reason.

    Raises:
        DataError: nearly all train rows of some domains are also in a test or dev split.
    """
    leaking: dict[str, tuple[int, int]] = {}
    for domain, split, reason, count, total in store.fetch(_MAIN_LOSSES):
        if split == "train" and reason in _LEAKS and count >= _MAX_LEAKING * total:
            leaking[domain] = count, total
        else:
            rows = f"{count:,} of {total:,} {split} rows of {domain}"
            yield Finding("most rows are not used", f"{rows}, {reason}", count)
    if leaking:
        count, total = map(sum, zip(*leaking.values(), strict=True))
        raise DataError(
            f"{store.source}: {count:,} of {total:,} train rows of {join_names([*leaking])} are also in a test or dev "
            "split, and nothing is left to learn from; take them out of that split, leave it out (prepare then makes "
            "one from train), or leave the domain out with --domains"
        )


def _count_strata(store: RowStore) -> dict[str, dict[str, tuple[int, int, int]]]:
    """Count the rows that are not dropped.

    Raises:
        DataError: a domain has no rows, or a single class.
    """
    counts: dict[str, dict[str, tuple[int, int, int]]] = {name: {} for name in store.domains()}
    split_counts = ", ".join(f"count(*) FILTER (split = '{split}')" for split in SPLITS)
    query = f"SELECT domain, label, {split_counts} FROM final_rows WHERE drop_reason IS NULL GROUP BY ALL ORDER BY ALL"
    for domain, label, *rows in store.fetch(query):
        counts[domain][label] = tuple(rows)
    for domain, labels in counts.items():
        if not labels:
            raise DataError(
                f"{store.source}: every text of domain {domain!r} is also in a test or dev split; leave it out with "
                "--domains"
            )
        # Without any train rows it is a test set, which may be prepared.
        train_labels = [label for label, (train, _, _) in labels.items() if train]
        for names, where in ((list(labels), ""), (train_labels, " in train")):
            if len(names) == 1:
                raise DataError(
                    f"{store.source}: domain {domain!r} has a single class{where} ({names[0]!r}), nothing to learn; "
                    "leave it out with --domains, which names the domains to keep"
                )
    return counts


def _count_domain(labels: Mapping[str, tuple[int, int, int]]) -> DomainCounts:
    train, dev, test = map(sum, zip(*labels.values(), strict=True))
    return DomainCounts(train, dev, test, {label: sum(rows) for label, rows in labels.items()})
