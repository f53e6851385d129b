"""Data for the stages after ``prepare``: from a prepared folder, or straight from a raw source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hrkd_cli.choices import Split
from hrkd_cli.command_settings import PrepareSettings
from hrkd_cli.data.dataset import Dataset, TextRows
from hrkd_cli.data.dataset_folder import is_prepared, open_dataset, read_manifest
from hrkd_cli.data.ingest import RowStore, ingest, open_store, stamps
from hrkd_cli.data.prepare import decisive_options, describe_dropped, prepare_files
from hrkd_cli.data.sources.columns import SourceFile
from hrkd_cli.data.sources.discover import find_source
from hrkd_cli.errors import DataError, OutputError
from hrkd_cli.events import Note, OnEvent, ignore
from hrkd_cli.layout import SPLITS
from hrkd_cli.outputs import check_output


def load_for_training(data: str | Path | Dataset, *, force: bool = False, on_event: OnEvent = ignore) -> Dataset:
    """Return data to train on: a prepared folder as it is, a raw source prepared with the default options first.

    What was prepared before from the same files with the same options is used again. The split's seed is always the
    default one, so that the seed of a training run never changes who is in the test split.

    Args:
        data: a dataset in memory, a prepared folder, or a raw source, which is prepared into ``hrkd-out/dataset``.
        force: replace the dataset there when it is another.
        on_event: told what is done.

    Raises:
        DataError: something is wrong with the data.
        OutputError: ``hrkd-out/dataset`` holds something else.
    """
    if isinstance(data, Dataset):
        return data
    if is_prepared(Path(data)):
        return open_dataset(data)
    files = find_source(data, on_event=on_event)
    settings = PrepareSettings(source=str(data), force=force)
    out = settings.out
    if is_prepared(out):
        different = _difference(files, settings)
        if different is None:
            on_event(Note(f"using {out}, prepared before from {data}"))
            return open_dataset(out)
        if not force:
            raise OutputError(f"{out} exists and {different}; use it with --data {out}, or replace it with --force")
    on_event(Note(f"preparing {data} into {out}"))
    check_output(out, kind="dataset", is_ours=is_prepared, force=force)
    prepare_files(files, settings, on_event)
    return open_dataset(out)


def load_for_evaluation(data: str | Path, split: Split = Split.TEST, *, on_event: OnEvent = ignore) -> Dataset:
    """Return data to score a model on; nothing is written, and no row that can be used is left out.

    Args:
        data: a prepared folder or a raw source. All of a raw source that has no splits of its own is the split that is
            asked for.
        split: the part that will be scored.
        on_event: told of rows that cannot be used.

    Raises:
        DataError: something is wrong with the data, or it has no row of that split.
    """
    if is_prepared(Path(data)):
        dataset = open_dataset(Path(data))
    else:
        with open_store(str(data)) as store:
            ingest(store, find_source(data, on_event=on_event), {}, on_event=on_event)
            for reason, (count, places) in store.dropped().items():
                on_event(Note(describe_dropped(reason, count, places), warning=True))
            dataset = Dataset.from_rows(_rows(store, split), has_pairs=bool(store.pair))
    without = [name for name in dataset.domains if not len(dataset.split(name, split))]
    if len(without) == len(dataset.domains):
        have = [name for name in SPLITS if any(name in parts for parts in dataset.rows.values())]
        raise DataError(f"{data}: no {split} rows; choose a --split that it has ({', '.join(have)}) or --split all")
    if without:
        on_event(Note(f"{data}: no {split} rows of {', '.join(without)}", warning=True))
    return dataset


def _rows(store: RowStore, wanted: Split) -> dict[str, dict[str, TextRows]]:
    """Return all usable rows by domain and split; of data without splits all are in the wanted one."""
    has_splits = "SELECT bool_or(split IS NOT NULL) FROM rows WHERE reason IS NULL"
    if store.con.execute(has_splits).fetchone()[0]:
        split = "coalesce(split, 'train')"
    else:
        # Where everything is asked for it does not matter in which split it lies; but it must lie in one.
        split = "'test'" if wanted == Split.ALL else f"'{wanted}'"
    columns = ", ".join(f"list({column} ORDER BY rowid)" for column in ("text", "text_pair", "label"))
    parts = store.con.execute(f"SELECT domain, {split}, {columns} FROM rows WHERE reason IS NULL GROUP BY ALL")
    rows: dict[str, dict[str, TextRows]] = {}
    for domain, name, texts, pairs, labels in parts.fetchall():
        rows.setdefault(domain, {})[name] = TextRows(texts, pairs if store.pair else None, labels)
    return rows


def _difference(files: Sequence[SourceFile], settings: PrepareSettings) -> str | None:
    """Return in what the dataset at the output differs from what the files would give; None when in nothing."""
    manifest = read_manifest(settings.out)
    sources = stamps(files)
    if not sources:  # not files: what is read of them tells
        with open_store(settings.source) as store:
            ingest(store, files, {}, on_event=ignore)
            sources = stamps(files, store)
    if manifest.get("sources") != sources:
        return "was made from other data"
    theirs = {**manifest.get("options", {}), "seed": manifest.get("seed")}
    ours = {**decisive_options(settings), "seed": settings.seed}
    changed = [name for name, value in ours.items() if theirs.get(name) != value]
    return f"was prepared with other options ({', '.join(changed)})" if changed else None
