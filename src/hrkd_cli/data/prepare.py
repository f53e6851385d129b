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

import hrkd_cli
from hrkd_cli.choices import SourceFormat
from hrkd_cli.data.folder import FORMAT, VERSION, DomainCounts, is_prepared, write_papers, write_splits
from hrkd_cli.data.ingest import RowStore, ingest, open_store, stamps
from hrkd_cli.data.sources.columns import Columns
from hrkd_cli.data.sources.discover import find_source, parse_format
from hrkd_cli.data.sources.values import Reason
from hrkd_cli.data.splits import keep_few, split_rows
from hrkd_cli.errors import DataError, OutputError, UsageError
from hrkd_cli.events import Note, OnEvent, ignore
from hrkd_cli.layout import DATASET, DATASET_OUT, SPLITS
from hrkd_cli.outputs import check_output, whole_folder
from hrkd_cli.settings import DEFAULT_SEED

_Counts = dict[str, dict[str, dict[str, int]]]
"""Rows by domain, split and label; all sorted, none empty."""
_Dropped = dict[str, tuple[int, list[str]]]
"""Rows that are not used by reason: how many, and the first places."""


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


def prepare(
    source: str | Path,
    *,
    out: str | Path = DATASET_OUT,
    format: SourceFormat | str = SourceFormat.AUTO,
    text: str | None = None,
    text_pair: str | None = None,
    label: str | None = None,
    domain: str | None = None,
    split: str | None = None,
    dev: float = 0.1,
    test: float = 0.1,
    few_shot: float | None = None,
    domains: Sequence[str] | None = None,
    dedupe: bool = True,
    seed: int = DEFAULT_SEED,
    encoding: str | None = None,
    force: bool = False,
    on_event: OnEvent = ignore,
) -> PrepareResult:
    """Read a source, split it and write a dataset folder.

    Args:
        source: a file, a folder or a hub dataset id (``owner/name``, ``owner/name:config``).
        out: the folder to write.
        format: layout of the source; ``auto`` looks at the files.
        text: column of the text; None looks for the usual names, as for the next four.
        text_pair: column of the second text.
        label: column of the label.
        domain: column of the domain.
        split: column of the split.
        dev: share of the rows that becomes the dev split of a domain that has none.
        test: the same for the test split.
        few_shot: keep this fraction of the train split, of each domain and label.
        domains: keep only these.
        dedupe: drop rows that repeat another of their domain.
        seed: of the split.
        encoding: encoding of text files; None is UTF-8, or what a byte order mark says.
        force: replace a dataset folder.
        on_event: told what is happening.

    Raises:
        UsageError: an option is out of range.
        DataError: something is wrong with the source.
        OutputError: the output exists or cannot be written.
    """
    _check_options(dev, test, few_shot, domains)
    kind, out = parse_format(format), Path(out)
    check_output(out, kind="dataset", is_ours=is_prepared, force=force)
    columns = Columns(text=text, text_pair=text_pair, label=label, domain=domain, split=split)
    found = find_source(source, kind)
    with whole_folder(out) as work:
        scratch = work / DATASET.scratch
        scratch.mkdir()
        with _plain_database_errors(out), open_store(str(source), scratch) as store:
            ingest(store, found, columns, domains=domains, encoding=encoding, on_event=on_event)
            sources = stamps(found, store)
            split_rows(store.con, dev=dev, test=test, dedupe=dedupe, seed=seed)
            dropped = _dropped(store)
            counts = _count(store)
            _check_counts(store, counts)
            if few_shot is not None:
                counts = _keep_few(store, counts, few_shot, seed, on_event)
            _warn_of_gaps(counts, on_event)
            result = PrepareResult(
                out=out,
                domains={name: _domain_counts(parts) for name, parts in counts.items()},
                dropped={reason: count for reason, (count, _) in dropped.items()},
                dropped_rows={reason: tuple(places) for reason, (_, places) in dropped.items()},
                fingerprint=write_splits(work, store.con, pair=bool(store.pair), on_event=on_event),
            )
            pair = bool(store.pair)
        shutil.rmtree(scratch)
        options = options_json(
            columns, dev=dev, test=test, few_shot=few_shot, domains=domains, dedupe=dedupe, encoding=encoding
        )
        options = {"format": str(format), **options}
        manifest = _manifest(result, options, source=str(source), sources=sources, pair=pair, seed=seed)
        write_papers(work, result.domains, manifest, pair=pair)
    return result


def options_json(
    columns: Columns | None = None,
    *,
    dev: float = 0.1,
    test: float = 0.1,
    few_shot: float | None = None,
    domains: Sequence[str] | None = None,
    dedupe: bool = True,
    encoding: str | None = None,
) -> dict[str, Any]:
    """Return the options that decide which rows a dataset has, as dataset.json holds them."""
    return {
        "columns": (columns or Columns()).named(),
        "dev": dev,
        "test": test,
        "few_shot": few_shot,
        "domains": sorted(domains) if domains is not None else None,
        "dedupe": dedupe,
        "encoding": encoding,
    }


def _check_options(dev: float, test: float, few_shot: float | None, domains: Sequence[str] | None) -> None:
    for name, share in (("--dev", dev), ("--test", test)):
        if not 0 <= share < 1:
            raise UsageError(f"{name}: {share} is not at least 0 and below 1")
    if dev + test >= 1:
        raise UsageError(f"--dev {dev} and --test {test} leave nothing to train on; their sum must be below 1")
    if few_shot is not None and not 0 < few_shot <= 1:
        raise UsageError(f"--few-shot: {few_shot} is not above 0 and at most 1")
    if domains is not None and (isinstance(domains, str) or not domains):
        raise UsageError("--domains: give one or more domain names, as in --domains books,dvd")


@contextmanager
def _plain_database_errors(out: Path) -> Iterator[None]:
    """Turn a failure of the database to write into one plain line."""
    import duckdb

    try:
        yield
    except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
        reason = " ".join(str(error).split())[:200]
        raise OutputError(f"{out}: cannot be written ({reason}); choose another place with --out") from error


def _dropped(store: RowStore) -> _Dropped:
    """Return the rows that are not used: those that cannot be, then leaks, then duplicates."""
    dropped = store.unusable()
    for reasons in ((Reason.IN_TEST, Reason.IN_DEV), (Reason.DUPLICATE, Reason.CONFLICT)):
        listed = ", ".join(f"'{reason}'" for reason in reasons)
        dropped |= store.count_reasons(f"(SELECT id, reason FROM placed WHERE reason IN ({listed}))")
    return dropped


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


def _keep_few(store: RowStore, counts: _Counts, fraction: float, seed: int, on_event: OnEvent) -> _Counts:
    keep_few(store.con, fraction, seed)
    few = _count(store)
    kept, before = (sum(sum(parts.get("train", {}).values()) for parts in c.values()) for c in (few, counts))
    on_event(Note(f"few-shot: {kept} of {before} train rows kept"))
    return few


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


def _manifest(
    result: PrepareResult, options: dict[str, Any], *, source: str, sources: list[Any], pair: bool, seed: int
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "hrkd_cli": hrkd_cli.__version__,
        "fingerprint": result.fingerprint,
        "pair": pair,
        "labels": {name: list(counts.labels) for name, counts in result.domains.items()},
        "domains": {name: counts.to_json() for name, counts in result.domains.items()},
        "source": source,
        "sources": sources,
        "seed": seed,
        "options": options,
        "dropped": {
            reason: {"count": count, "rows": list(result.dropped_rows[reason])}
            for reason, count in result.dropped.items()
        },
    }
