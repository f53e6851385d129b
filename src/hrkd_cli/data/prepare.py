"""From any raw source to a prepared dataset folder: the function behind ``hrkd prepare``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hrkd_cli
from hrkd_cli.config import DEFAULT_SEED, SourceFormat
from hrkd_cli.data.dataset import Dataset, make_dataset, rows_from_examples
from hrkd_cli.data.folder import write_folder
from hrkd_cli.data.manifest import FORMAT, VERSION, is_prepared
from hrkd_cli.data.sources.read import RawData, parse_format, read_source
from hrkd_cli.data.sources.records import Columns, Dropped, Example
from hrkd_cli.data.splitting import few_shot as keep_few
from hrkd_cli.data.splitting import split_examples
from hrkd_cli.errors import DataError, UsageError
from hrkd_cli.events import Note, OnEvent, ignore
from hrkd_cli.layout import DATASET_OUT, SPLITS
from hrkd_cli.outputs import check_output

# Rows that are listed, of each reason; the counts are always whole.
MAX_LISTED = 1000


@dataclass(frozen=True, slots=True)
class DomainCounts:
    """Rows of a domain in the dataset, by split and by label."""

    train: int
    dev: int
    test: int
    labels: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {"train": self.train, "dev": self.dev, "test": self.test, "labels": self.labels}


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
        on_event: told what is happening.

    Raises:
        UsageError: an option is out of range.
        DataError: something is wrong with the source.
        OutputError: the output exists or cannot be written.
    """
    _check_options(dev, test, few_shot, domains)
    parse_format(format)
    out = Path(out)
    check_output(out, kind="dataset", is_ours=is_prepared, force=force)
    columns = Columns(text=text, text_pair=text_pair, label=label, domain=domain, split=split)
    raw = read_source(source, format=format, columns=columns, domains=domains, on_event=on_event)
    dataset, dropped = _split(raw, dev=dev, test=test, few_shot=few_shot, dedupe=dedupe, seed=seed, on_event=on_event)
    result = _result(out, dataset, raw.dropped + dropped)
    options = options_json(columns, dev=dev, test=test, few_shot=few_shot, domains=domains, dedupe=dedupe)
    write_folder(out, dataset, _manifest(result, dataset, raw, {"format": str(format), **options}, seed), force=force)
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


def _split(
    raw: RawData, *, dev: float, test: float, few_shot: float | None, dedupe: bool, seed: int, on_event: OnEvent
) -> tuple[Dataset, list[Dropped]]:
    splits = split_examples(raw.examples, dev=dev, test=test, dedupe=dedupe, seed=seed)
    for name in sorted({example.domain for example in raw.examples} - set(splits.rows)):
        raise DataError(
            f"{raw.source}: every text of domain {name!r} is also in a test or dev split; leave it out with --domains"
        )
    for name, parts in splits.rows.items():
        _check_classes(raw.source, name, parts)
    if few_shot is not None:
        _keep_few(splits.rows, few_shot, seed, on_event)
    rows = {
        name: {split: rows_from_examples(part, pair=raw.pair) for split, part in parts.items()}
        for name, parts in splits.rows.items()
    }
    dataset = make_dataset(rows, pair=raw.pair, path=None)
    _warn_of_gaps(dataset, on_event)
    return dataset, splits.dropped


def _keep_few(rows: dict[str, dict[str, list[Example]]], fraction: float, seed: int, on_event: OnEvent) -> None:
    with_train = [parts for parts in rows.values() if "train" in parts]
    before = sum(len(parts["train"]) for parts in with_train)
    for parts in with_train:
        parts["train"] = keep_few(parts["train"], fraction, seed)
    on_event(Note(f"few-shot: {sum(len(parts['train']) for parts in with_train)} of {before} train rows kept"))


def _check_classes(source: str, domain: str, parts: dict[str, list[Example]]) -> None:
    everything = {row.label for part in parts.values() for row in part}
    train = {row.label for row in parts.get("train", [])}
    # No train rows at all is a test set, which is a fine thing to prepare.
    labels, where = (everything, "") if len(everything) < 2 else (train, " in train")
    if len(labels) == 1:
        raise DataError(
            f"{source}: domain {domain!r} has a single class{where} ({next(iter(labels))!r}), nothing to learn; "
            "leave it out with --domains, which names the domains to keep"
        )


def _warn_of_gaps(dataset: Dataset, on_event: OnEvent) -> None:
    for split in SPLITS:
        gaps = []
        for domain, labels in dataset.labels.items():
            have = set(dataset.split(domain, split).labels)
            gaps += [f"{domain}/{label}" for label in labels if label not in have] if have else [domain]
        if gaps:
            more = f" and {len(gaps) - 5} more" if len(gaps) > 5 else ""
            on_event(Note(f"no {split} rows of {', '.join(gaps[:5])}{more}", warning=True))


def _result(out: Path, dataset: Dataset, dropped: Sequence[Dropped]) -> PrepareResult:
    domains = {}
    for name, labels in dataset.labels.items():
        have = dataset.split(name, "all").labels
        train, dev, test = (len(dataset.split(name, split)) for split in SPLITS)
        domains[name] = DomainCounts(train, dev, test, {label: have.count(label) for label in labels})
    places: dict[str, list[str]] = {}
    for row in dropped:
        places.setdefault(str(row.reason), []).append(row.place)
    return PrepareResult(
        out=out,
        domains=domains,
        dropped={reason: len(rows) for reason, rows in places.items()},
        dropped_rows={reason: tuple(rows[:MAX_LISTED]) for reason, rows in places.items()},
        fingerprint=dataset.fingerprint,
    )


def _manifest(
    result: PrepareResult, dataset: Dataset, raw: RawData, options: dict[str, Any], seed: int
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "hrkd_cli": hrkd_cli.__version__,
        "fingerprint": result.fingerprint,
        "pair": dataset.pair,
        "labels": {name: list(labels) for name, labels in dataset.labels.items()},
        "domains": {name: counts.to_json() for name, counts in result.domains.items()},
        "source": raw.source,
        "sources": [stamp.to_json() for stamp in raw.stamps],
        "seed": seed,
        "options": options,
        "dropped": {
            reason: {"count": count, "rows": list(result.dropped_rows[reason])}
            for reason, count in result.dropped.items()
        },
    }
