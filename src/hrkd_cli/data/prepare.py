"""From any raw source to a prepared dataset folder: the function behind ``hrkd prepare``.

The rows lie in a DuckDB database in the output's ``.partial`` folder while they are read, split and written, so that a
source may be larger than the memory.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hrkd_cli.command_settings import PrepareSettings
from hrkd_cli.data.folder import FORMAT, VERSION, DomainCounts, is_prepared, write_papers, write_splits
from hrkd_cli.data.ingest import RowStore, ingest, open_store, stamps
from hrkd_cli.data.sources.discover import SourceFile, find_source
from hrkd_cli.data.splits import keep_few, split_rows
from hrkd_cli.errors import DataError, OutputError
from hrkd_cli.events import Note, OnEvent, ignore
from hrkd_cli.layout import DATASET, SPLITS
from hrkd_cli.outputs import check_output, whole_folder
from hrkd_cli.version import __version__

_Counts = dict[str, dict[str, dict[str, int]]]
"""Rows by domain, split and label; all sorted, none empty."""


@dataclass(frozen=True, slots=True)
class PrepareResult:
    """What was prepared.

    Attributes:
        out: the dataset folder.
        domains: counts by domain, sorted by name.
        dropped: rows that are not in the dataset, by reason.
        dropped_rows: ``file:line`` of the first of them, by reason.
        fingerprint: of the dataset.
    """

    out: Path
    domains: dict[str, DomainCounts]
    dropped: dict[str, int]
    dropped_rows: dict[str, tuple[str, ...]]
    fingerprint: str

    def to_json(self) -> dict[str, Any]:
        """Return what ``hrkd prepare --json`` prints."""
        return {"domains": {name: c.to_json() for name, c in self.domains.items()}, "dropped": dict(self.dropped)}

    def report(self, on_event: OnEvent) -> None:
        """Tell which rows are not used: rows that could not be are worth a warning, second copies are not."""
        for reason, line in zip(self.dropped, self.dropped_lines(), strict=True):
            on_event(Note(line, warning=not reason.startswith("duplicate")))

    def dropped_lines(self, limit: int = 3) -> list[str]:
        """Return a line a reason: how many rows, and where the first of them are."""
        lines = []
        for reason, count in self.dropped.items():
            shown = self.dropped_rows[reason][:limit]
            more = ", ..." if count > len(shown) else ""
            lines.append(f"not used: {count} {'row' if count == 1 else 'rows'}, {reason} ({', '.join(shown)}{more})")
        return lines


def prepare(source: str | Path, *, on_event: OnEvent = ignore, **options: Any) -> PrepareResult:
    """Read a source, split it and write a dataset folder.

    Args:
        source: a file, a folder or a hub dataset id (``owner/name``, ``owner/name:config``).
        on_event: told what is happening.
        **options: fields of ``hrkd_cli.command_settings.PrepareSettings``.

    Raises:
        UsageError: an option is out of range.
        DataError: something is wrong with the source.
        OutputError: the output exists or cannot be written.
    """
    settings = PrepareSettings(source=str(source), **options)
    check_dataset_output(settings)
    return prepare_files(find_source(source, settings.format, on_event=on_event), settings, on_event)


def check_dataset_output(settings: PrepareSettings) -> None:
    """Refuse an output that may not be written, before anything is read.

    Raises:
        OutputError: it exists and may not be replaced.
    """
    check_output(settings.out, kind="dataset", is_ours=is_prepared, force=settings.force)


def prepare_files(files: Sequence[SourceFile], settings: PrepareSettings, on_event: OnEvent) -> PrepareResult:
    """Prepare what a source holds; see prepare."""
    out = settings.out
    with whole_folder(out) as work:
        scratch = work / DATASET.scratch
        scratch.mkdir()
        with _plain_database_errors(out), open_store(settings.source, scratch) as store:
            domains, encoding = settings.domains, settings.encoding
            ingest(store, files, settings.columns, domains=domains, encoding=encoding, on_event=on_event)
            sources = stamps(files, store)
            split_rows(store.con, dev=settings.dev, test=settings.test, dedupe=settings.dedupe, seed=settings.seed)
            counts = _count(store)
            _check_counts(store, counts)
            if settings.few_shot is not None:
                keep_few(store.con, settings.few_shot, settings.seed)
                before, counts = _train_rows(counts), _count(store)
                on_event(Note(f"few-shot: {_train_rows(counts)} of {before} train rows kept"))
            _warn_of_gaps(counts, on_event)
            dropped = store.dropped()
            result = PrepareResult(
                out=out,
                domains={name: _domain_counts(parts) for name, parts in counts.items()},
                dropped={reason: count for reason, (count, _) in dropped.items()},
                dropped_rows={reason: tuple(places) for reason, (_, places) in dropped.items()},
                fingerprint=write_splits(work, store.con, pair=bool(store.pair), on_event=on_event),
            )
        shutil.rmtree(scratch)
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "hrkd_cli": __version__,
            "fingerprint": result.fingerprint,
            "pair": store.pair,
            "labels": {name: list(counts.labels) for name, counts in result.domains.items()},
            "domains": {name: counts.to_json() for name, counts in result.domains.items()},
            "source": settings.source,
            "sources": sources,
            "seed": settings.seed,
            "options": {"format": str(settings.format), **decisive_options(settings)},
            "dropped": {reason: {"count": count, "rows": places} for reason, (count, places) in dropped.items()},
        }
        write_papers(work, result.domains, manifest, pair=bool(store.pair))
    return result


def decisive_options(settings: PrepareSettings) -> dict[str, Any]:
    """Return the options that decide which rows a dataset has, as dataset.json holds them."""
    return {
        "columns": settings.columns,
        "dev": settings.dev,
        "test": settings.test,
        "few_shot": settings.few_shot,
        "domains": settings.domains and sorted(settings.domains),
        "dedupe": settings.dedupe,
        "encoding": settings.encoding,
    }


@contextmanager
def _plain_database_errors(out: Path) -> Iterator[None]:
    """Turn a failure of the database to write into one plain line."""
    import duckdb

    try:
        yield
    except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
        reason = " ".join(str(error).split())[:200]
        raise OutputError(f"{out}: cannot be written ({reason}); choose another place with --out") from error


def _count(store: RowStore) -> _Counts:
    found = store.con.execute(
        "SELECT domain, split, label, count(*) FROM placed JOIN strata USING (stratum) WHERE reason IS NULL "
        "GROUP BY ALL ORDER BY ALL"
    )
    counts: _Counts = {}
    for domain, split, label, rows in found.fetchall():
        counts.setdefault(domain, {}).setdefault(split, {})[label] = rows
    return counts


def _check_counts(store: RowStore, counts: _Counts) -> None:
    for name in store.domains():
        if name not in counts:
            raise DataError(
                f"{store.source}: every text of domain {name!r} is also in a test or dev split; leave it out with "
                "--domains"
            )
        _check_classes(store.source, name, counts[name])


def _train_rows(counts: _Counts) -> int:
    return sum(sum(parts.get("train", {}).values()) for parts in counts.values())


def _domain_counts(parts: Mapping[str, Mapping[str, int]]) -> DomainCounts:
    train, dev, test = (sum(parts.get(split, {}).values()) for split in SPLITS)
    labels = sorted({label for part in parts.values() for label in part})
    by_label = {label: sum(part.get(label, 0) for part in parts.values()) for label in labels}
    return DomainCounts(train, dev, test, by_label)


def _check_classes(source: str, domain: str, parts: Mapping[str, Mapping[str, int]]) -> None:
    everything = {label for part in parts.values() for label in part}
    # No train rows at all is a test set, which is a fine thing to prepare.
    labels, where = (everything, "") if len(everything) < 2 else ({*parts.get("train", {})}, " in train")
    if len(labels) == 1:
        raise DataError(
            f"{source}: domain {domain!r} has a single class{where} ({next(iter(labels))!r}), nothing to learn; "
            "leave it out with --domains, which names the domains to keep"
        )


def _warn_of_gaps(counts: _Counts, on_event: OnEvent) -> None:
    for split in SPLITS:
        gaps = []
        for domain, parts in counts.items():
            labels = sorted({label for part in parts.values() for label in part})
            have = parts.get(split)
            gaps += [f"{domain}/{label}" for label in labels if label not in have] if have else [domain]
        if gaps:
            more = f" and {len(gaps) - 5} more" if len(gaps) > 5 else ""
            on_event(Note(f"no {split} rows of {', '.join(gaps[:5])}{more}", warning=True))
