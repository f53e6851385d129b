"""From any raw source to a prepared dataset folder: the function behind ``hrkd prepare``.

It holds no dataset in memory, only some numbers a row: the texts go to disk as they are read (``gathering``), the split
of every row is decided on the numbers (``splitting``), and the texts go from there to where they belong (``folder``).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import hrkd_cli
from hrkd_cli.choices import SourceFormat
from hrkd_cli.data.crew import Crew
from hrkd_cli.data.folder import write_papers, write_splits
from hrkd_cli.data.gathering import Gathered, gather
from hrkd_cli.data.index import Index
from hrkd_cli.data.manifest import FORMAT, VERSION, DomainCounts, is_prepared
from hrkd_cli.data.sources.discover import Found
from hrkd_cli.data.sources.read import find_source, parse_format
from hrkd_cli.data.sources.records import Columns
from hrkd_cli.data.sources.tally import MAX_LISTED
from hrkd_cli.data.splitting import REASONS, TEST, TRAIN, Keys, Places, keep_few, split_rows
from hrkd_cli.errors import DataError, UsageError
from hrkd_cli.events import Note, OnEvent, ignore
from hrkd_cli.layout import DATASET, DATASET_OUT, SPLITS
from hrkd_cli.outputs import check_output, whole_folder
from hrkd_cli.settings import DEFAULT_SEED

# Bytes of source below which starting processes takes longer than they save.
_LARGE = 32 << 20

_Counts = dict[str, dict[str, dict[str, int]]]
"""Rows by domain, split and label; all sorted, none empty."""


@dataclass(frozen=True, slots=True)
class PrepareResult:
    """What was prepared.

    Attributes:
        out: the dataset folder.
        domains: counts by domain, sorted by name.
        dropped: rows that are not in the dataset, by reason.
        dropped_rows: ``file:line`` of the first MAX_LISTED of them, by reason.
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
    force: bool = False,
    processes: int | None = None,
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
        force: replace a dataset folder.
        processes: processes that share the work; None takes one a core for a large source and one for a small one.
            The result does not depend on it.
        on_event: told what is happening.

    Raises:
        UsageError: an option is out of range.
        DataError: something is wrong with the source.
        OutputError: the output exists or cannot be written.
    """
    _check_options(dev, test, few_shot, domains, processes)
    kind, out = parse_format(format), Path(out)
    check_output(out, kind="dataset", is_ours=is_prepared, force=force)
    columns = Columns(text=text, text_pair=text_pair, label=label, domain=domain, split=split)
    cut = _Cut(dev, test, few_shot, dedupe, seed)
    found = find_source(source, kind)
    with whole_folder(out) as work:
        size = _crew_size(found, processes)
        spool = work / DATASET.spool
        spool.mkdir()
        with Crew(size) as crew:
            gathered = gather(str(source), found, columns, wanted=domains, crew=crew, folder=spool, on_event=on_event)
        # Between the two nobody but this process needs memory.
        places, counts = _split(gathered, cut, on_event)
        with Crew(size) as crew:
            fingerprint = write_splits(work, gathered.index, places, counts, crew=crew, on_event=on_event)
        result = _result(out, gathered, counts, fingerprint)
        options = options_json(columns, dev=dev, test=test, few_shot=few_shot, domains=domains, dedupe=dedupe)
        manifest = _manifest(result, gathered, {"format": str(format), **options}, seed)
        write_papers(work, counts, manifest, pair=gathered.index.pair)
    return result


def options_json(
    columns: Columns | None = None,
    *,
    dev: float = 0.1,
    test: float = 0.1,
    few_shot: float | None = None,
    domains: Sequence[str] | None = None,
    dedupe: bool = True,
) -> dict[str, Any]:
    """Return the options that decide which rows a dataset has, as dataset.json holds them."""
    return {
        "columns": (columns or Columns()).named(),
        "dev": dev,
        "test": test,
        "few_shot": few_shot,
        "domains": sorted(domains) if domains is not None else None,
        "dedupe": dedupe,
    }


def _check_options(
    dev: float, test: float, few_shot: float | None, domains: Sequence[str] | None, processes: int | None
) -> None:
    for name, share in (("--dev", dev), ("--test", test)):
        if not 0 <= share < 1:
            raise UsageError(f"{name}: {share} is not at least 0 and below 1")
    if dev + test >= 1:
        raise UsageError(f"--dev {dev} and --test {test} leave nothing to train on; their sum must be below 1")
    if few_shot is not None and not 0 < few_shot <= 1:
        raise UsageError(f"--few-shot: {few_shot} is not above 0 and at most 1")
    if domains is not None and (isinstance(domains, str) or not domains):
        raise UsageError("--domains: give one or more domain names, as in --domains books,dvd")
    if processes is not None and processes < 1:
        raise UsageError(f"--processes: {processes} is not at least 1")


def _crew_size(found: Found | None, processes: int | None) -> int:
    if processes is not None:
        return processes
    # A hub dataset is read by its own library, in one process.
    size = 0
    for file in found.files if found is not None else ():
        with contextlib.suppress(OSError):  # whoever reads it says what is wrong
            size += file.path.stat().st_size
    return _cores() if size >= _LARGE else 1


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows do not tell which cores a process may use
        return os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class _Cut:
    """Options that decide who goes where."""

    dev: float
    test: float
    few_shot: float | None
    dedupe: bool
    seed: int


def _split(gathered: Gathered, cut: _Cut, on_event: OnEvent) -> tuple[Places, dict[str, DomainCounts]]:
    index = gathered.index
    keys = index.keys()
    places = split_rows(keys, dev=cut.dev, test=cut.test, dedupe=cut.dedupe, seed=cut.seed)
    _note_dropped(gathered, places)
    counts = _count(index, keys, places)
    for name in sorted(set(index.domains) - set(counts)):
        raise DataError(
            f"{gathered.source}: every text of domain {name!r} is also in a test or dev split; leave it out with "
            "--domains"
        )
    for name, parts in counts.items():
        _check_classes(gathered.source, name, parts)
    if cut.few_shot is not None:
        before = np.count_nonzero(places == TRAIN)
        keep_few(keys, places, cut.few_shot, cut.seed, domains=index.domains, labels=index.labels)
        on_event(Note(f"few-shot: {np.count_nonzero(places == TRAIN)} of {before} train rows kept"))
        counts = _count(index, keys, places)
    _warn_of_gaps(counts, on_event)
    return places, {name: _domain_counts(parts) for name, parts in counts.items()}


def _note_dropped(gathered: Gathered, places: Places) -> None:
    # Leaks were taken out before duplicates; within each kind, what is met first comes first.
    for kind in (list(REASONS)[:2], list(REASONS)[2:]):
        found = [(rows, REASONS[place]) for place in kind if len(rows := np.flatnonzero(places == place))]
        for rows, reason in sorted(found, key=lambda entry: int(entry[0][0])):
            listed = [gathered.index.place(row) for row in rows[:MAX_LISTED].tolist()]
            gathered.unused.add_many(reason, len(rows), [f"{file}:{line}" for file, line in listed])


def _count(index: Index, keys: Keys, places: Places) -> _Counts:
    kept = places <= TEST
    sizes = len(SPLITS), len(index.labels)
    cells = (keys.domain[kept].astype(np.int64) * sizes[0] + places[kept]) * sizes[1] + keys.label[kept]
    found: dict[tuple[str, int, str], int] = {}
    for cell, rows in zip(*(values.tolist() for values in np.unique(cells, return_counts=True)), strict=True):
        domain, place, label = cell // sizes[1] // sizes[0], cell // sizes[1] % sizes[0], cell % sizes[1]
        found[index.domains[domain], place, index.labels[label]] = rows
    counts: _Counts = {}
    for (name, place, label), rows in sorted(found.items()):
        counts.setdefault(name, {}).setdefault(SPLITS[place], {})[label] = rows
    return counts


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


def _result(out: Path, gathered: Gathered, domains: dict[str, DomainCounts], fingerprint: str) -> PrepareResult:
    unused = gathered.unused
    return PrepareResult(
        out=out,
        domains=domains,
        dropped={str(reason): count for reason, count in unused.counts.items()},
        dropped_rows={str(reason): tuple(places) for reason, places in unused.places.items()},
        fingerprint=fingerprint,
    )


def _manifest(result: PrepareResult, gathered: Gathered, options: dict[str, Any], seed: int) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "hrkd_cli": hrkd_cli.__version__,
        "fingerprint": result.fingerprint,
        "pair": gathered.index.pair,
        "labels": {name: list(counts.labels) for name, counts in result.domains.items()},
        "domains": {name: counts.to_json() for name, counts in result.domains.items()},
        "source": gathered.source,
        "sources": [stamp.to_json() for stamp in gathered.stamps],
        "seed": seed,
        "options": options,
        "dropped": {
            reason: {"count": count, "rows": list(result.dropped_rows[reason])}
            for reason, count in result.dropped.items()
        },
    }
