"""From any raw source to a prepared dataset folder: the function behind ``hrkd prepare``.

The rows lie in a DuckDB database in the output's ``.partial`` folder while they are read, split and written, so that a
source may be larger than the memory.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hrkd_cli.command_settings import PrepareSettings
from hrkd_cli.data.dataset_folder import FORMAT, VERSION, DomainCounts, is_prepared, write_manifest, write_splits
from hrkd_cli.data.ingest import RowStore, ingest, open_store, stamps
from hrkd_cli.data.names import short
from hrkd_cli.data.sources.columns import SourceFile
from hrkd_cli.data.sources.discover import find_source
from hrkd_cli.data.splits import keep_few, split_rows
from hrkd_cli.errors import DataError
from hrkd_cli.events import Note, OnEvent, ignore
from hrkd_cli.layout import SPLITS, DatasetFiles
from hrkd_cli.outputs import atomic_folder, check_output
from hrkd_cli.version import __version__

_Counts = dict[str, dict[str, tuple[int, int, int]]]
"""Rows of train, dev and test by domain and label, sorted by name."""


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
        return {"domains": {name: asdict(c) for name, c in self.domains.items()}, "dropped": dict(self.dropped)}

    def dropped_lines(self, limit: int = 3) -> list[str]:
        """Return a line a reason: how many rows, and where the first of them are."""
        return [
            describe_dropped(reason, count, self.dropped_rows[reason], limit) for reason, count in self.dropped.items()
        ]


def describe_dropped(reason: str, count: int, places: Sequence[str], limit: int = 3) -> str:
    """Say in a line how many rows are not used, why, and where the first of them are."""
    more = ", ..." if count > len(places[:limit]) else ""
    return f"not used: {count} {'row' if count == 1 else 'rows'}, {reason} ({', '.join(places[:limit])}{more})"


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
    check_output(settings.out, kind="dataset", is_ours=is_prepared, force=settings.force)
    return prepare_files(find_source(source, settings.format, on_event=on_event), settings, on_event)


def prepare_files(files: Sequence[SourceFile], settings: PrepareSettings, on_event: OnEvent) -> PrepareResult:
    """Prepare what a source holds, into an output that may be written; see prepare."""
    out = settings.out
    with atomic_folder(out) as work:
        scratch = work / DatasetFiles.scratch
        scratch.mkdir()
        with open_store(settings.source, scratch) as store:
            wanted, encoding = settings.domains, settings.encoding
            ingest(store, files, settings.columns, domains=wanted, encoding=encoding, on_event=on_event)
            sources = stamps(files, store)
            split_rows(store.con, dev=settings.dev, test=settings.test, dedupe=settings.dedupe, seed=settings.seed)
            few_shot = settings.few_shot
            removed = 0 if few_shot is None else keep_few(store.con, few_shot, settings.seed)
            counts = _count(store)
            domains = {name: _domain_counts(labels) for name, labels in counts.items()}
            if few_shot is not None:
                kept = sum(entry.train for entry in domains.values())
                on_event(Note(f"few-shot: {kept} of {kept + removed} train rows kept"))
            _warn_of_gaps(counts, on_event)
            dropped = store.dropped()
            fingerprint = write_splits(work, store.con, domains, pair=bool(store.pair), on_event=on_event)
        shutil.rmtree(scratch)
        result = PrepareResult(
            out=out,
            domains=domains,
            dropped={reason: count for reason, (count, _) in dropped.items()},
            dropped_rows={reason: tuple(places) for reason, (_, places) in dropped.items()},
            fingerprint=fingerprint,
        )
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "hrkd_cli": __version__,
            "fingerprint": fingerprint,
            "pair": store.pair,
            "labels": {name: list(entry.labels) for name, entry in domains.items()},
            "domains": result.to_json()["domains"],
            "source": settings.source,
            "sources": sources,
            "seed": settings.seed,
            "options": {"format": str(settings.format), **decisive_options(settings)},
            "dropped": {reason: {"count": count, "rows": places} for reason, (count, places) in dropped.items()},
        }
        write_manifest(work, manifest)
    for reason, line in zip(result.dropped, result.dropped_lines(), strict=True):
        on_event(Note(line, warning=not reason.startswith("duplicate")))
    return result


def decisive_options(settings: PrepareSettings) -> dict[str, Any]:
    """Return the options that decide which rows a dataset has, as dataset.json holds them."""
    names = ("columns", "dev", "test", "few_shot", "domains", "dedupe", "encoding")
    return {
        **{name: getattr(settings, name) for name in names},
        "domains": settings.domains and sorted(settings.domains),
    }


def _count(store: RowStore) -> _Counts:
    """Count the rows that are left.

    Raises:
        DataError: a domain has none, or a single class.
    """
    counts: _Counts = {name: {} for name in store.domains()}
    split_counts = ", ".join(f"count(*) FILTER (split = '{split}')" for split in SPLITS)
    query = f"SELECT domain, label, {split_counts} FROM placed WHERE reason IS NULL GROUP BY ALL ORDER BY ALL"
    for domain, label, *rows in store.con.execute(query).fetchall():
        counts[domain][label] = tuple(rows)
    for domain, labels in counts.items():
        if not labels:
            raise DataError(
                f"{store.source}: every text of domain {domain!r} is also in a test or dev split; leave it out with "
                "--domains"
            )
        # No train rows at all is a test set, which is a fine thing to prepare.
        in_train = [label for label, (train, _, _) in labels.items() if train]
        if len(labels) == 1 or len(in_train) == 1:
            where, label = ("", *labels) if len(labels) == 1 else (" in train", *in_train)
            raise DataError(
                f"{store.source}: domain {domain!r} has a single class{where} ({label!r}), nothing to learn; "
                "leave it out with --domains, which names the domains to keep"
            )
    return counts


def _domain_counts(labels: Mapping[str, tuple[int, int, int]]) -> DomainCounts:
    train, dev, test = map(sum, zip(*labels.values(), strict=True))
    return DomainCounts(train, dev, test, {label: sum(rows) for label, rows in labels.items()})


def _warn_of_gaps(counts: _Counts, on_event: OnEvent) -> None:
    for number, split in enumerate(SPLITS):
        gaps = []
        for domain, labels in counts.items():
            without = [f"{domain}/{label}" for label, rows in labels.items() if not rows[number]]
            gaps += without if len(without) < len(labels) else [domain]
        if gaps:
            on_event(Note(f"no {split} rows of {short(gaps)}", warning=True))
