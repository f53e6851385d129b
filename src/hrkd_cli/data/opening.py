"""Data for the stages after ``prepare``: from a prepared folder, or straight from a raw source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hrkd_cli.choices import Split
from hrkd_cli.command_settings import PrepareSettings
from hrkd_cli.data.dataset import Dataset, Rows, make_dataset
from hrkd_cli.data.folder import is_prepared, open_dataset, read_manifest
from hrkd_cli.data.ingest import RowStore, ingest, open_store, stamps
from hrkd_cli.data.prepare import check_dataset_output, decisive_options, prepare_files
from hrkd_cli.data.sources.discover import SourceFile, find_source
from hrkd_cli.errors import DataError, OutputError, UsageError
from hrkd_cli.events import Note, OnEvent, ignore
from hrkd_cli.layout import DATASET_OUT, SPLITS


def load_for_training(
    data: str | Path | Dataset,
    *,
    dataset_out: str | Path = DATASET_OUT,
    force: bool = False,
    on_event: OnEvent = ignore,
) -> Dataset:
    """Return data to train on: a prepared folder as it is, a raw source prepared with the default options first.

    What was prepared before from the same files with the same options is used again. The split's seed is always the
    default one, so that the seed of a training run never changes who is in the test split.

    Args:
        data: a dataset in memory, a prepared folder or a raw source.
        dataset_out: where a raw source is prepared.
        force: replace the dataset there when it is another.
        on_event: told what is done.

    Raises:
        DataError: something is wrong with the data.
        OutputError: ``dataset_out`` holds something else.
    """
    if isinstance(data, Dataset):
        return data
    dataset_out = Path(dataset_out)
    if is_prepared(Path(data)):
        return open_dataset(Path(data))
    files = find_source(data, on_event=on_event)
    settings = PrepareSettings(source=str(data), out=dataset_out, force=force)
    if is_prepared(dataset_out):
        different = _difference(dataset_out, files, settings)
        if different is None:
            on_event(Note(f"using {dataset_out}, prepared before from {data}"))
            return open_dataset(dataset_out)
        if not force:
            raise OutputError(
                f"{dataset_out} exists and {different}; use it with --data {dataset_out}, or replace it with --force"
            )
    on_event(Note(f"preparing {data} into {dataset_out}"))
    check_dataset_output(settings)
    prepare_files(files, settings, on_event).report(on_event)
    return open_dataset(dataset_out)


def load_for_evaluation(data: str | Path, split: Split | str = Split.TEST, *, on_event: OnEvent = ignore) -> Dataset:
    """Return data to score a model on; nothing is written, and no row that can be used is left out.

    Args:
        data: a prepared folder or a raw source. All of a raw source that has no splits of its own is the split that is
            asked for.
        split: the part that will be scored.
        on_event: told of rows that cannot be used.

    Raises:
        DataError: something is wrong with the data, or it has no row of that split.
        UsageError: there is no such split.
    """
    try:
        wanted = Split(split)
    except ValueError:
        raise UsageError(f"--split: {split!r} is not one of {', '.join(Split)}") from None
    if is_prepared(Path(data)):
        dataset = open_dataset(Path(data))
    else:
        with open_store(str(data)) as store:
            ingest(store, find_source(data, on_event=on_event), {}, on_event=on_event)
            _note_unusable(store, on_event)
            dataset = make_dataset(_by_split(store, wanted), pair=bool(store.pair), path=None)
    without = [name for name in dataset.domains if not len(dataset.split(name, wanted))]
    if len(without) == len(dataset.domains):
        have = [name for name in SPLITS if any(name in parts for parts in dataset.rows.values())]
        raise DataError(f"{data}: no {wanted} rows; choose a --split that it has ({', '.join(have)}) or --split all")
    if without:
        on_event(Note(f"{data}: no {wanted} rows of {', '.join(without)}", warning=True))
    return dataset


def _by_split(store: RowStore, wanted: Split) -> dict[str, dict[str, Rows]]:
    usable = "SELECT text, text_pair, label, domain, split FROM rows WHERE reason IS NULL ORDER BY rowid"
    rows = store.con.execute(usable).fetchall()
    has_splits = any(split for *_, split in rows)
    # Where everything is asked for it does not matter in which split it lies; but it must lie in one.
    only = "test" if wanted is Split.ALL else str(wanted)
    parts: dict[str, dict[str, Rows]] = {}
    for text, pair, label, domain, split in rows:
        name = (split or "train") if has_splits else only
        part = parts.setdefault(domain, {}).setdefault(name, Rows([], [] if store.pair else None, []))
        part.texts.append(text)
        part.labels.append(label)
        if part.pairs is not None:
            part.pairs.append(pair)
    return parts


def _note_unusable(store: RowStore, on_event: OnEvent) -> None:
    unusable = store.dropped()
    if not unusable:
        return
    total = sum(count for count, _ in unusable.values())
    count = "1 row cannot be used and is" if total == 1 else f"{total} rows cannot be used and are"
    places = [f"{place} {reason}" for reason, (_, listed) in unusable.items() for place in listed[:3]]
    on_event(Note(f"{count} left out: {', '.join(places[:3])}{', ...' if total > 3 else ''}", warning=True))


def _difference(dataset_out: Path, files: Sequence[SourceFile], settings: PrepareSettings) -> str | None:
    """Return in what the dataset there differs from what the files would give; None when in nothing."""
    manifest = read_manifest(dataset_out)
    if _known(manifest.get("sources")) != _known(_stamps(files, settings)):
        return "was made from other data"
    theirs = {name: value for name, value in manifest.get("options", {}).items() if name != "format"}
    ours = {"seed": settings.seed, **decisive_options(settings)}
    changed = [name for name, value in {"seed": manifest.get("seed"), **theirs}.items() if ours.get(name) != value]
    return f"was prepared with other options ({', '.join(changed)})" if changed else None


def _stamps(files: Sequence[SourceFile], settings: PrepareSettings) -> list[dict[str, Any]]:
    if entries := stamps(files):
        return entries
    with open_store(settings.source) as store:
        ingest(store, files, {}, on_event=ignore)
        return stamps(files, store)


def _known(stamps: Any) -> list[tuple[str, str]]:
    if not isinstance(stamps, list):
        return []
    return sorted((str(entry.get("path")), str(entry.get("sha256"))) for entry in stamps)
